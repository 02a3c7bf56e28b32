"""The kill matrix as a table."""

import pathlib

KINDS = ["plugin", "lightningd", "plugin, not important", "one attempt only"]
COLUMNS = [(side, kind) for side in ("lsp", "client") for kind in KINDS]
BEGIN, END = "<!-- table -->", "<!-- end -->"


def table(rows):
    """Markdown: a row for each step, a column for each side and each way to kill it."""
    columns = [column for column in COLUMNS if any(column in row for row in rows.values())]
    lines = [["step", *(f"{side}: {kind}" for side, kind in columns)], ["---"] * (len(columns) + 1)]
    lines += [[f"`{step}`", *(row.get(column, "") for column in columns)] for step, row in rows.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(path, table):
    """Puts the table between the marks of a page."""
    page = pathlib.Path(path)
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
