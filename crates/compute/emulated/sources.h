// sources.h: the texts that the kernels of this build were compiled from (the build script writes the table).
#pragma once

struct Source {
    const char *file, *text;
};
extern const Source KERNEL_SOURCES[];  // ends with a null file
extern const Source KERNEL_HEADERS[];  // likewise
