// Fibers, the threads of a block, and the order in which they run.
#include "worker.h"

#include <sys/mman.h>

#include <algorithm>

namespace emulated {

__thread Thread* current __attribute__((tls_model("initial-exec"))) = nullptr;
__thread Worker* worker __attribute__((tls_model("initial-exec"))) = nullptr;

namespace {

constexpr unsigned char POISON = 0xff;  // NaN as f32 and as bf16

// ---- Switching between fibers ----------------------------------------------------------------------------------------------------
#if EMULATED_SWITCH
// Saves the registers that a call must keep on the old stack, and takes the new stack's.
extern "C" void emulated_switch(void** save, void* load) __attribute__((visibility("hidden")));
asm(".text\n.hidden emulated_switch\n.globl emulated_switch\n.type emulated_switch,@function\nemulated_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
    ".size emulated_switch,.-emulated_switch\n");

#else
void emulated_switch(void** save, void* load) {
    ucontext_t here;
    *save = &here;
    swapcontext(&here, static_cast<ucontext_t*>(load));
}
#endif

void thread_entry();

}  // namespace

#if EMULATED_SWITCH
void* Stack::fresh(unsigned char* bottom, size_t size, void (*entry)()) {
    void** top = reinterpret_cast<void**>(bottom + size);
    *--top = nullptr;  // where entry would return to, and the alignment that a call leaves
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    return top;
}
#else
void* Stack::fresh(unsigned char* bottom, size_t size, void (*entry)()) {
    getcontext(&begin);
    begin.uc_stack.ss_sp = bottom;
    begin.uc_stack.ss_size = size;
    begin.uc_link = nullptr;
    makecontext(&begin, entry, 0);
    return &begin;
}
#endif

// ---- What an OS thread holds -----------------------------------------------------------------------------------------------------
Worker& own_worker() {
    static thread_local Worker own;
    worker = &own;
    return own;
}

static unsigned char* map(size_t bytes) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) die("no memory for stacks");
    return static_cast<unsigned char*>(p);
}

void Worker::prepare(unsigned count) {
    if (!shared_memory) {
        shared_memory = map(SHARED_REGION + PAGE);
        mprotect(shared_memory + SHARED_REGION, PAGE, PROT_NONE);
    }
    if (count <= stacks.size()) return;
    release_stacks();
    stacks.resize(count);
    threads.resize(count);
    stack_memory = map(count * (STACK + PAGE));
    for (unsigned i = 0; i < count; i++) mprotect(stack_memory + i * (STACK + PAGE), PAGE, PROT_NONE);
    free_stacks.clear();
    for (unsigned i = count; i-- > 0;) free_stacks.push_back((int)i);
}

void Worker::release_stacks() {
    if (stack_memory) munmap(stack_memory, stacks.size() * (STACK + PAGE));
}

Worker::~Worker() {
    release_stacks();
    if (shared_memory) munmap(shared_memory, SHARED_REGION + PAGE);
    if (worker == this) worker = nullptr;
}

bool Worker::in_stack_guard(const unsigned char* p) const {
    return stack_memory && p >= stack_memory && p < stack_memory + stacks.size() * (STACK + PAGE) &&
           (size_t)(p - stack_memory) % (STACK + PAGE) < PAGE;
}
bool Worker::in_shared_guard(const unsigned char* p) const {
    return shared_memory && p >= shared_memory + SHARED_REGION && p < shared_memory + SHARED_REGION + PAGE;
}

// The tops are staggered: stacks that all begin at the same place of a page would share few lines of the cache.
void Worker::start(Thread& t) {
    t.stack = free_stacks.back();
    free_stacks.pop_back();
    unsigned char* bottom = stack_memory + (size_t)t.stack * (STACK + PAGE) + PAGE;
    t.context = stacks[(size_t)t.stack].fresh(bottom, STACK - (unsigned)t.stack * 1088u % 4096u / 64 * 64, thread_entry);
}

unsigned Worker::next_random(unsigned below) {
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    return (unsigned)((random >> 32) * below >> 32);
}

// ---- Threads of a block ----------------------------------------------------------------------------------------------------------
namespace {

void release_barrier(Block& b) {
    b.arrived = 0;
    for (unsigned i = 0; i < b.warp_count; i++) {
        b.warps[i].ready |= b.warps[i].at_barrier;
        b.warps[i].at_barrier = 0;
    }
}

unsigned next_lane(const Warp& w, unsigned lane) {
    if (w.descending) {
        const unsigned below = w.ready & ((1u << lane) - 1u);
        return 31u - (unsigned)__builtin_clz(below ? below : w.ready);
    }
    const unsigned above = w.ready & ~((2u << lane) - 1u);
    return (unsigned)__builtin_ctz(above ? above : w.ready);
}

void leave_kernel(Thread& t) {
    if (!t.copies.empty() || !t.groups.empty()) die("the thread ended with copy_async16 not waited for");
    Warp& w = *t.warp;
    Block& b = *t.block;
    const unsigned bit = 1u << t.lane;
    w.ready &= ~bit;
    w.live &= ~bit;
    if (--b.live && b.arrived == b.live) release_barrier(b);
}

// A fiber's life: it runs a thread to its end, then any thread of the warp that has not begun, on the same stack.
void thread_entry() {
    for (;;) {
        worker->kernel->run(worker->arguments);
        Thread& t = *current;
        leave_kernel(t);
        Thread* next = t.warp->ready ? &t.warp->threads[next_lane(*t.warp, t.lane)] : nullptr;
        if (next && next->stack < 0) {
            next->stack = t.stack;
            current = next;
            continue;
        }
        worker->free_stacks.push_back(t.stack);
        void* never;
        if (next) current = next;
        emulated_switch(&never, next ? next->context : worker->scheduler);
    }
}

}  // namespace

void give_way() {
    Thread& me = *current;
    Warp& w = *me.warp;
    if (!w.ready) return emulated_switch(&me.context, worker->scheduler);
    Thread& next = w.threads[next_lane(w, me.lane)];
    if (next.stack < 0) worker->start(next);
    current = &next;
    emulated_switch(&me.context, next.context);
}

void block_barrier(int line) {
    Thread& me = *current;
    Block& b = *me.block;
    if (b.arrived++ == 0) b.barrier_line = line;
    if (b.barrier_line != line) die("divergent barrier: threads wait at __syncthreads of line %d and of line %d", b.barrier_line, line);
    if (b.arrived == b.live) return release_barrier(b);
    Warp& w = *me.warp;
    w.at_barrier |= 1u << me.lane;
    w.ready &= ~(1u << me.lane);
    give_way();
}

void finish_collective(Warp& w, uint64_t call, Perform perform) {
    const unsigned mask = (unsigned)call;
    for (unsigned left = mask; left; left &= left - 1)
        if (w.call[__builtin_ctz(left)] != call) die("lanes of one warp meet in different warp collectives or with different masks");
    perform(w, mask);
    w.arrived &= ~mask;
    w.ready |= mask;
}

// ---- Blocks ----------------------------------------------------------------------------------------------------------------------
void Worker::begin_block(const uint3& index, const uint3& grid, const uint3& size, size_t shared_bytes) {
    const unsigned count = size.x * size.y * size.z, warp_count = (count + 31) / 32;
    if (warps.size() < warp_count) warps.resize(warp_count);
    unsigned char* end = shared_memory + SHARED_REGION;
    block.shared = reinterpret_cast<unsigned char*>(((uintptr_t)end - shared_bytes) & ~(uintptr_t)(SHARED_ALIGNMENT - 1));
    block.shared_bytes = shared_bytes;
    memset(block.shared, POISON, end - block.shared);
    block.index = index, block.grid = grid, block.size = size;
    block.arrived = 0, block.live = count, block.warps = warps.data(), block.warp_count = warp_count;
    uint3 at{0, 0, 0};
    for (unsigned i = 0; i < count; i++) {
        Thread& t = threads[i];
        t.lane = i % 32, t.linear = i, t.index = at, t.stack = -1, t.warp = &warps[i / 32], t.block = &block;
        if (++at.x == size.x) {
            at.x = 0;
            if (++at.y == size.y) at.y = 0, at.z++;
        }
    }
    for (unsigned i = 0; i < warp_count; i++) {
        Warp& w = warps[i];
        w.ready = w.live = count - i * 32 >= 32 ? ~0u : (1u << (count - i * 32)) - 1u;
        w.arrived = w.at_barrier = 0;
        w.threads = &threads[i * 32];
    }
}

// Warp by warp, each until all of its lanes wait at the block's barrier or have left, in the order that the seed gives.
void Worker::run_block(uint64_t seed) {
    const unsigned count = block.warp_count;
    order.resize(count);
    for (unsigned i = 0; i < count; i++) order[i] = seed == 1 ? count - 1 - i : i;
    while (block.live) {
        if (seed > 1)
            for (unsigned i = count; i-- > 1;) std::swap(order[i], order[next_random(i + 1)]);
        bool ran = false;
        for (unsigned i = 0; i < count; i++) {
            Warp& w = warps[order[i]];
            if (!w.ready) continue;
            ran = true;
            w.descending = seed == 1 || (seed > 1 && next_random(2));
            Thread& t = w.threads[next_lane(w, w.descending ? 0 : 31)];
            if (t.stack < 0) start(t);
            current = &t;
            emulated_switch(&scheduler, t.context);
        }
        if (ran) continue;
        current = nullptr;
        unsigned in_collective = 0;
        for (unsigned i = 0; i < count; i++) in_collective += (unsigned)__builtin_popcount(warps[i].arrived);
        die("divergent barrier: no thread can go on; %u wait at __syncthreads (line %d), %u in a warp collective, %u have left", block.arrived,
            block.arrived ? block.barrier_line : 0, in_collective, block.size.x * block.size.y * block.size.z - block.live);
    }
    end_block();
}

void Worker::end_block() {
    current = nullptr;
    const unsigned char *p = block.shared + block.shared_bytes, *end = shared_memory + SHARED_REGION;
    for (; p < end; p++)
        if (*p != POISON) die("a write %zu bytes behind the end of %zu bytes of shared memory", p - block.shared - block.shared_bytes, block.shared_bytes);
}

}  // namespace emulated
