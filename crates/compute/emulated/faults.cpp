// How a kernel that is wrong ends: one line that says what, and where.
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <mutex>

#include "worker.h"

namespace emulated {

const char* (*describe_address)(const void* address) = nullptr;

void die(const char* format, ...) {
    char text[512], line[768], thread[32] = "-";
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    int n;
    if (worker && worker->kernel) {
        const uint3& at = worker->block.index;
        if (current) snprintf(thread, sizeof thread, "%u", current->linear);
        n = snprintf(line, sizeof line, "emulated CUDA: %s (kernel %s, block %u,%u,%u, thread %s)\n", text, worker->kernel->name, at.x, at.y, at.z, thread);
    } else {
        n = snprintf(line, sizeof line, "emulated CUDA: %s\n", text);
    }
    if (write(2, line, (size_t)n) < 0) _exit(134);
    abort();
}

namespace {

struct sigaction previous[2];

void on_fault(int signal, siginfo_t* info, void* context) {
    if (current) {
        const auto* p = static_cast<const unsigned char*>(info->si_addr);
        const char* known = describe_address ? describe_address(p) : nullptr;
        if (worker->in_stack_guard(p)) die("stack overflow: a thread needs more than %zu bytes", STACK);
        if (worker->in_shared_guard(p)) die("memory fault behind the end of %zu bytes of shared memory", current->block->shared_bytes);
        if (known) die("memory fault at %p, %s", (const void*)p, known);
        die("memory fault at %p (null: a misaligned vector)", (const void*)p);
    }
    const struct sigaction& before = previous[signal == SIGBUS];
    if (before.sa_flags & SA_SIGINFO) return before.sa_sigaction(signal, info, context);
    if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) return before.sa_handler(signal);
    ::signal(signal, SIG_DFL);  // the faulting instruction runs again
}

}  // namespace

void catch_faults() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigaction(SIGSEGV, &action, &previous[0]);
        sigaction(SIGBUS, &action, &previous[1]);
    });
}

void use_signal_stack() {
    constexpr size_t BYTES = 64 << 10;
    static thread_local bool done = false;
    stack_t now;
    if (done || (sigaltstack(nullptr, &now) == 0 && !(now.ss_flags & SS_DISABLE))) return;
    done = true;
    stack_t mine{};
    mine.ss_sp = malloc(BYTES);
    mine.ss_size = BYTES;
    sigaltstack(&mine, nullptr);
}

}  // namespace emulated
