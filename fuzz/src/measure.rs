//! Bounds on what one input may cost: memory, and the thread's CPU time.

use std::time::Duration;

use peak_alloc::PeakAlloc;
use rustix::time::{ClockId, clock_gettime};

use crate::Target;

/// The binary's `#[global_allocator]` is another instance of the same counters.
const ALLOCATOR: PeakAlloc = PeakAlloc;

/// How often an input over a bound is tried again: the machine has other things to do, and the first
/// input pays for what is made once.
const TRIES: u32 = 5;

/// What an input of a target may cost: a floor, and so much for each byte.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes in use at once, besides those before.
    memory: (usize, usize),
    /// CPU time; for each kilobyte.
    time: (Duration, Duration),
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

impl Bounds {
    /// Whatever only reads: a millisecond for each kilobyte.
    pub const DECODER: Self = Self { memory: (MIB, 64), time: (ms(20), ms(1)) };
    /// Some messages of some hundred kilobytes come from a few bytes here.
    pub const LINK: Self = Self { memory: (3 * MIB, 64), time: (ms(40), ms(1)) };
    /// Terms also become a layout: up to 4,096 clients of 8 bytes each, with a node for each.
    pub const MESSAGE: Self = Self { memory: (3 * MIB, 512), time: (ms(20), ms(1)) };
    /// A stored proposal becomes a tree: points are added up, some 50 µs for each 33 bytes and level.
    pub const RECORD: Self = Self { memory: (3 * MIB, 512), time: (ms(50), ms(40)) };
    /// A plan for 4,096 clients takes four bytes to ask for.
    pub const PLUGIN: Self = Self { memory: (32 * MIB, 256), time: (ms(250), ms(1)) };
    /// A block comes as hex in JSON, is cloned once and decoded.
    pub const CHAIN: Self = Self { memory: (8 * MIB, 64), time: (ms(50), ms(1)) };
    /// A byte may be a whole step of a ceremony, with its signatures.
    pub const ENGINE: Self = Self { memory: (16 * MIB, 4 * KIB), time: (ms(200), ms(2_000)) };
}

/// What one input cost.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Most bytes in use at once, besides those before.
    pub memory: usize,
    /// CPU time.
    pub time: Duration,
}

/// Gives an input to a target.
pub fn cost(target: &Target, data: &[u8]) -> Cost {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let start = cpu_time();
    (target.judge)(data);
    let time = cpu_time().saturating_sub(start);
    Cost { memory: ALLOCATOR.peak_usage().saturating_sub(before), time }
}

/// Gives an input to a target; gives what it cost.
///
/// # Panics
/// When something does not hold, or it cost too much, again and again.
pub fn within(target: &Target, data: &[u8]) -> Cost {
    let (floor, each) = target.bounds.memory;
    let memory = floor.saturating_add(each.saturating_mul(data.len()));
    let (floor, each) = target.bounds.time;
    let kilobytes = u32::try_from(data.len().div_ceil(1000)).unwrap_or(u32::MAX);
    let time = floor.saturating_add(each.saturating_mul(kilobytes));
    let mut least = cost(target, data);
    for _ in 1..TRIES {
        if least.memory <= memory && least.time <= time {
            return least;
        }
        let again = cost(target, data);
        least = Cost { memory: least.memory.min(again.memory), time: least.time.min(again.time) };
    }
    let (name, bytes) = (target.name, data.len());
    assert!(
        least.memory <= memory,
        "{name}: {bytes} bytes took {} bytes of memory, more than {memory}",
        least.memory
    );
    assert!(least.time <= time, "{name}: {bytes} bytes took {:?}, more than {time:?}", least.time);
    least
}

fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), nanos)
}
