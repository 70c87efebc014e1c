// Which barriers a program reaches, and one of them left out: so it is shown that the tests would see a barrier that is missing
// (tools/barriers.sh). A barrier is a statement, named by its file and line: __syncthreads, __syncwarp, or kx::copy_async_wait.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <mutex>
#include <set>
#include <string>

#include "worker.h"

namespace emulated {

bool watching_barriers = false;

namespace {

const char* without = nullptr;
const char* reached = nullptr;
std::mutex mutex;

// Appends a line to the file that collects what is reached; several processes may do so.
void note(const std::string& barrier) {
    const int file = open(reached, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    const std::string line = barrier + "\n";
    if (file < 0 || write(file, line.data(), line.size()) != (ssize_t)line.size()) die("FD_EMULATED_REACHED: cannot write to %s", reached);
    close(file);
}

// FILE:LINE ends the path and line of a barrier.
bool names(const char* wanted, const std::string& barrier) {
    const size_t n = strlen(wanted);
    return barrier.size() > n && barrier.compare(barrier.size() - n, n, wanted) == 0 && barrier[barrier.size() - n - 1] == '/';
}

}  // namespace

void watch_barriers() {
    static std::once_flag once;
    std::call_once(once, [] {
        without = getenv("FD_EMULATED_WITHOUT"), reached = getenv("FD_EMULATED_REACHED");
        watching_barriers = without || reached;
    });
}

bool barrier_left_out(const char* file, int line) {
    KnownBarrier& known = worker->barriers[(unsigned)line % Worker::BARRIERS];
    if (known.file != file || known.line != line) {
        static std::set<std::string>& seen = *new std::set<std::string>;
        const std::string barrier = std::string(file) + ":" + std::to_string(line);
        std::lock_guard<std::mutex> lock(mutex);
        if (seen.insert(barrier).second && reached) note(barrier);
        known = {file, line, without && names(without, barrier)};
    }
    return known.left_out;
}

}  // namespace emulated
