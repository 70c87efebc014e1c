// Runs the tests of the emulation, each in a process of its own, as most of them must die. With a name: that test alone, in this process.
#include "selftest.h"

#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <sstream>

void* stream;

std::string source_folder() { return SELFTEST_FOLDER; }

std::string read_file(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    CHECK(in);
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
}

void open_device() {
    void* context;
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
    OK(cuStreamCreate(&stream, 1));
}

void* load_module(const char* file) {
    const std::string text = read_file(source_folder() + "/" + file), header = read_file(source_folder() + "/../../src/ops/kx.h");
    const char *headers[] = {header.c_str()}, *names[] = {"kx.h"}, *options[] = {"--gpu-architecture=sm_90", "--std=c++17"};
    void *program, *module;
    OK(nvrtcCreateProgram(&program, text.c_str(), file, 1, headers, names));
    OK(nvrtcCompileProgram(program, 2, options));
    size_t bytes;
    OK(nvrtcGetCUBINSize(program, &bytes));
    std::vector<char> cubin(bytes);
    OK(nvrtcGetCUBIN(program, cubin.data()));
    OK(nvrtcDestroyProgram(&program));
    OK(cuModuleLoadData(&module, cubin.data()));
    return module;
}

void* find(const char* kernel, const char* file) {
    static std::map<std::string, void*> modules;
    void*& module = modules[file];
    if (!module) module = load_module(file);
    void* function;
    OK(cuModuleGetFunction(&function, module, kernel));
    return function;
}

int launch_status(void* function, unsigned grid, unsigned block, unsigned shared, std::vector<void*> arguments) {
    return cuLaunchKernel(function, grid, 1, 1, block, 1, 1, shared, stream, arguments.data(), nullptr);
}

static bool passes(const Test& test) {
    int ends[2];
    if (pipe(ends)) exit(2);
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 2);
        close(ends[0]), close(ends[1]);
        test.run();
        exit(0);
    }
    close(ends[1]);
    std::string said;
    char part[4096];
    for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;) said.append(part, (size_t)n);
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    const bool good = test.message ? WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && said.find(test.message) != std::string::npos
                                   : WIFEXITED(status) && WEXITSTATUS(status) == 0;
    printf("%-6s %s\n", good ? "ok" : "FAILED", test.name);
    if (!good || getenv("SELFTEST_VERBOSE")) printf("       status %x, said: %s\n", status, said.c_str());
    fflush(stdout);
    return good;
}

int main(int count, char** words) {
    int failed = 0, ran = 0;
    for (const Test* suite : {RUNTIME_TESTS, DRIVER_TESTS, MATMUL_TESTS})
        for (const Test* test = suite; test->name; test++) {
            if (count > 1) {
                if (!strcmp(test->name, words[1])) return test->run(), 0;
                continue;
            }
            ran++;
            failed += !passes(*test);
        }
    if (count > 1) return fprintf(stderr, "no such test\n"), 2;
    printf("emulated CUDA: %d tests, %d failed\n", ran, failed);
    return failed != 0;
}
