/* A CUDA device that is not there: the runtime and as much of the driver as torch calls.
 *
 * Kernels compute nothing; each advances the clock of its stream by SIMULATED_KERNEL_US (10) microseconds. Whoever waits for a
 * stream sleeps until its clock is reached, so the host sees the waits that it would see. Device memory is host memory that is
 * committed when it is touched; there are SIMULATED_MEMORY_GB (80) of it, beyond which allocation fails as it does on a card.
 * Copies between host and device are real copies (pageable ones wait, pinned ones do not); large copies within the device are not.
 */
#define _GNU_SOURCE
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PUBLIC __attribute__((visibility("default")))
#define NOTHING_TO_DO(name, ...) PUBLIC cudaError_t name(__VA_ARGS__) { return cudaSuccess; }

/* -- the clock */

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void wait_until(double time) {
    double left = time - now();
    if (left > 0) {
        struct timespec pause = {(time_t)left, (long)(1e9 * (left - (double)(time_t)left))};
        nanosleep(&pause, NULL);
    }
}

static double setting(const char *name, double otherwise) {
    const char *value = getenv(name);
    return value ? atof(value) : otherwise;
}

static double kernel_us(void) {
    static double known = -1;
    if (known < 0) known = setting("SIMULATED_KERNEL_US", 10);
    return known;
}

static size_t total_memory(void) {
    static size_t known = 0;
    if (!known) known = (size_t)(1e9 * setting("SIMULATED_MEMORY_GB", 80));
    return known;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* -- streams */

typedef struct {
    double busy_until;
    int priority;
} Stream;

static Stream default_stream;

static Stream *stream_of(cudaStream_t handle) {
    int is_default = handle == NULL || handle == cudaStreamLegacy || handle == cudaStreamPerThread;
    return is_default ? &default_stream : (Stream *)handle;
}

/* Work of so many microseconds goes to the end of the stream. Also called by the libraries. */
void simulated_work(cudaStream_t handle, double us) {
    pthread_mutex_lock(&lock);
    Stream *stream = stream_of(handle);
    if (stream->busy_until < now()) stream->busy_until = now();
    stream->busy_until += 1e-6 * us;
    pthread_mutex_unlock(&lock);
}

void simulated_kernels(cudaStream_t handle, double count) { simulated_work(handle, count * kernel_us()); }

PUBLIC cudaError_t cudaStreamCreateWithPriority(cudaStream_t *handle, unsigned flags, int priority) {
    Stream *stream = calloc(1, sizeof *stream);
    stream->priority = priority;
    *handle = (cudaStream_t)stream;
    return cudaSuccess;
}
PUBLIC cudaError_t cudaStreamCreateWithFlags(cudaStream_t *handle, unsigned flags) {
    return cudaStreamCreateWithPriority(handle, flags, 0);
}
PUBLIC cudaError_t cudaStreamCreate(cudaStream_t *handle) { return cudaStreamCreateWithPriority(handle, 0, 0); }
NOTHING_TO_DO(cudaStreamDestroy, cudaStream_t handle)

PUBLIC cudaError_t cudaStreamGetPriority(cudaStream_t handle, int *priority) {
    *priority = stream_of(handle)->priority;
    return cudaSuccess;
}
PUBLIC cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}
PUBLIC cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
    wait_until(stream_of(handle)->busy_until);
    return cudaSuccess;
}
PUBLIC cudaError_t cudaStreamQuery(cudaStream_t handle) {
    return stream_of(handle)->busy_until > now() ? cudaErrorNotReady : cudaSuccess;
}
PUBLIC cudaError_t cudaDeviceSynchronize(void) { return cudaStreamSynchronize(NULL); }

PUBLIC cudaError_t cudaStreamIsCapturing(cudaStream_t handle, enum cudaStreamCaptureStatus *status) {
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
PUBLIC cudaError_t cudaStreamGetCaptureInfo(
    cudaStream_t handle, enum cudaStreamCaptureStatus *status, unsigned long long *id, cudaGraph_t *graph,
    const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges, size_t *count) {
    *status = cudaStreamCaptureStatusNone;
    if (id) *id = 0;
    if (count) *count = 0;
    return cudaSuccess;
}
NOTHING_TO_DO(cudaThreadExchangeStreamCaptureMode, enum cudaStreamCaptureMode *mode)

/* -- events */

typedef struct {
    double at;
} Event;

PUBLIC cudaError_t cudaEventCreateWithFlags(cudaEvent_t *handle, unsigned flags) {
    *handle = (cudaEvent_t)calloc(1, sizeof(Event));
    return cudaSuccess;
}
PUBLIC cudaError_t cudaEventCreate(cudaEvent_t *handle) { return cudaEventCreateWithFlags(handle, 0); }
PUBLIC cudaError_t cudaEventDestroy(cudaEvent_t handle) {
    free((Event *)handle);
    return cudaSuccess;
}
PUBLIC cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
    pthread_mutex_lock(&lock);
    double busy = stream_of(stream)->busy_until, time = now();
    ((Event *)handle)->at = busy > time ? busy : time;
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}
PUBLIC cudaError_t cudaEventRecordWithFlags(cudaEvent_t handle, cudaStream_t stream, unsigned flags) {
    return cudaEventRecord(handle, stream);
}
PUBLIC cudaError_t cudaEventQuery(cudaEvent_t handle) {
    return ((Event *)handle)->at > now() ? cudaErrorNotReady : cudaSuccess;
}
PUBLIC cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
    wait_until(((Event *)handle)->at);
    return cudaSuccess;
}
PUBLIC cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
    *ms = (float)(1e3 * (((Event *)to)->at - ((Event *)from)->at));
    return cudaSuccess;
}
PUBLIC cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned flags) {
    pthread_mutex_lock(&lock);
    Stream *stream = stream_of(handle);
    if (event && stream->busy_until < ((Event *)event)->at) stream->busy_until = ((Event *)event)->at;
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

/* -- memory */

typedef enum { PAGEABLE, DEVICE, PINNED } Kind;
typedef struct {
    char *start;
    size_t size;
    Kind kind;
} Range;

static Range *ranges;
static int range_count, range_room;
static size_t used_memory;

static void remember(void *start, size_t size, Kind kind) {
    pthread_mutex_lock(&lock);
    if (range_count == range_room) {
        range_room = range_room ? 2 * range_room : 256;
        ranges = realloc(ranges, (size_t)range_room * sizeof *ranges);
    }
    ranges[range_count++] = (Range){start, size, kind};
    pthread_mutex_unlock(&lock);
}

static size_t forget(void *start) {
    size_t size = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < range_count; i++)
        if (ranges[i].start == (char *)start) {
            size = ranges[i].size;
            ranges[i] = ranges[--range_count];
            break;
        }
    pthread_mutex_unlock(&lock);
    return size;
}

static Kind kind_of(const void *address) {
    Kind kind = PAGEABLE;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < range_count && kind == PAGEABLE; i++)
        if ((char *)address >= ranges[i].start && (char *)address < ranges[i].start + ranges[i].size) kind = ranges[i].kind;
    pthread_mutex_unlock(&lock);
    return kind;
}

static void *reserved(size_t size) {
    void *start = mmap(NULL, size ? size : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return start == MAP_FAILED ? NULL : start;
}

PUBLIC cudaError_t cudaMalloc(void **address, size_t size) {
    *address = used_memory + size > total_memory() ? NULL : reserved(size);
    if (!*address) return cudaErrorMemoryAllocation;
    used_memory += size;
    remember(*address, size, DEVICE);
    return cudaSuccess;
}
PUBLIC cudaError_t cudaFree(void *address) {
    size_t size = forget(address);
    if (size) munmap(address, size);
    used_memory -= size;
    return cudaDeviceSynchronize(); /* as the real one does */
}
PUBLIC cudaError_t cudaMallocAsync(void **address, size_t size, cudaStream_t stream) { return cudaMalloc(address, size); }
PUBLIC cudaError_t cudaFreeAsync(void *address, cudaStream_t stream) { return cudaFree(address); }
PUBLIC cudaError_t cudaHostAlloc(void **address, size_t size, unsigned flags) {
    *address = reserved(size);
    remember(*address, size, PINNED);
    return cudaSuccess;
}
PUBLIC cudaError_t cudaFreeHost(void *address) {
    size_t size = forget(address);
    if (size) munmap(address, size);
    return cudaSuccess;
}
PUBLIC cudaError_t cudaHostRegister(void *address, size_t size, unsigned flags) {
    remember(address, size, PINNED);
    return cudaSuccess;
}
PUBLIC cudaError_t cudaHostUnregister(void *address) {
    forget(address);
    return cudaSuccess;
}
PUBLIC cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    *total = total_memory();
    *available = *total - used_memory;
    return cudaSuccess;
}
PUBLIC cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *address) {
    Kind kind = kind_of(address);
    memset(found, 0, sizeof *found);
    found->type = kind == DEVICE ? cudaMemoryTypeDevice : kind == PINNED ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
    found->device = kind == PAGEABLE ? -2 : 0;
    found->devicePointer = kind == PAGEABLE ? NULL : (void *)address;
    found->hostPointer = kind == PINNED ? (void *)address : NULL;
    return cudaSuccess;
}
PUBLIC cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device) {
    *pool = (cudaMemPool_t)1;
    return cudaSuccess;
}

/* -- copies: 25 GB/s from pinned memory, 6 GB/s from pageable, 2 TB/s within the device */

#define SMALL 4096 /* up to here copies within the device are made: flags and scalars */

static cudaError_t copy(void *to, const void *from, size_t size, cudaStream_t stream, int waits) {
    Kind target = kind_of(to), source = kind_of(from);
    if (target == DEVICE && source == DEVICE) {
        simulated_work(stream, 2 + (double)size / 2e6);
        if (size <= SMALL) memmove(to, from, size);
        return cudaSuccess;
    }
    Kind host = target == DEVICE ? source : target;
    simulated_work(stream, 3 + (double)size / (host == PINNED ? 25e3 : 6e3));
    if (waits || host == PAGEABLE) cudaStreamSynchronize(stream);
    memcpy(to, from, size);
    return cudaSuccess;
}
PUBLIC cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream) {
    return copy(to, from, size, stream, 0);
}
PUBLIC cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
    return copy(to, from, size, NULL, 1);
}
PUBLIC cudaError_t cudaMemcpyPeerAsync(void *to, int device, const void *from, int other, size_t size, cudaStream_t stream) {
    return copy(to, from, size, stream, 0);
}
PUBLIC cudaError_t cudaMemsetAsync(void *to, int value, size_t size, cudaStream_t stream) {
    simulated_work(stream, 2 + (double)size / 2e6);
    if (size <= SMALL) memset(to, value, size);
    return cudaSuccess;
}
PUBLIC cudaError_t cudaMemset(void *to, int value, size_t size) { return cudaMemsetAsync(to, value, size, NULL); }
NOTHING_TO_DO(cudaMemcpyToSymbol, const void *to, const void *from, size_t size, size_t offset, enum cudaMemcpyKind kind)
PUBLIC cudaError_t cudaGetSymbolAddress(void **address, const void *symbol) {
    static char anywhere[1 << 20];
    *address = anywhere;
    return cudaSuccess;
}

/* -- kernels */

PUBLIC cudaError_t cudaLaunchKernel(const void *f, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
    simulated_kernels(stream, 1);
    return cudaSuccess;
}
PUBLIC cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *f, void **arguments) {
    simulated_kernels(config->stream, 1);
    return cudaSuccess;
}
PUBLIC cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *f) {
    *kernel = (cudaKernel_t)f;
    return cudaSuccess;
}
PUBLIC cudaError_t __cudaLaunchKernel(
    cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
    simulated_kernels(stream, 1);
    return cudaSuccess;
}
PUBLIC CUresult cuLaunchKernel(
    CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, CUstream stream,
    void **arguments, void **extra) {
    simulated_kernels((cudaStream_t)stream, 1);
    return CUDA_SUCCESS;
}
PUBLIC char __cudaInitModule(void **handle) { return 1; }
PUBLIC cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *f) {
    memset(found, 0, sizeof *found);
    found->maxThreadsPerBlock = 1024;
    found->numRegs = 32;
    found->ptxVersion = found->binaryVersion = 90;
    found->maxDynamicSharedSizeBytes = 232448;
    return cudaSuccess;
}
PUBLIC cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int *count, const void *f, int block, size_t shared, unsigned flags) {
    *count = 2;
    return cudaSuccess;
}

/* -- the card: the sizes of an H100 */

static __thread int current_device;

PUBLIC cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}
PUBLIC cudaError_t cudaGetDevice(int *device) {
    *device = current_device;
    return cudaSuccess;
}
PUBLIC cudaError_t cudaSetDevice(int device) {
    current_device = device;
    return cudaSuccess;
}
PUBLIC cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *card, int device) {
    memset(card, 0, sizeof *card);
    strcpy(card->name, "Simulated H100");
    card->totalGlobalMem = total_memory();
    card->major = 9;
    card->multiProcessorCount = 132;
    card->warpSize = 32;
    card->maxThreadsPerBlock = 1024;
    card->maxThreadsPerMultiProcessor = 2048;
    card->maxBlocksPerMultiProcessor = 32;
    card->maxThreadsDim[0] = card->maxThreadsDim[1] = 1024;
    card->maxThreadsDim[2] = 64;
    card->maxGridSize[0] = 2147483647;
    card->maxGridSize[1] = card->maxGridSize[2] = 65535;
    card->sharedMemPerBlock = 49152;
    card->sharedMemPerBlockOptin = 232448;
    card->sharedMemPerMultiprocessor = 233472;
    card->regsPerBlock = card->regsPerMultiprocessor = 65536;
    card->memPitch = 2147483647;
    card->totalConstMem = 65536;
    card->l2CacheSize = 52428800;
    card->memoryBusWidth = 5120;
    card->asyncEngineCount = 3;
    card->concurrentKernels = card->unifiedAddressing = card->canMapHostMemory = 1;
    return cudaSuccess;
}
PUBLIC cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    struct cudaDeviceProp card;
    cudaGetDeviceProperties(&card, device);
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = card.maxThreadsPerBlock; break;
    case cudaDevAttrMaxBlockDimX: case cudaDevAttrMaxBlockDimY: *value = card.maxThreadsDim[0]; break;
    case cudaDevAttrMaxBlockDimZ: *value = card.maxThreadsDim[2]; break;
    case cudaDevAttrMaxGridDimX: *value = card.maxGridSize[0]; break;
    case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: *value = card.maxGridSize[1]; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)card.sharedMemPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)card.sharedMemPerBlockOptin; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)card.sharedMemPerMultiprocessor; break;
    case cudaDevAttrMaxRegistersPerMultiprocessor: *value = card.regsPerMultiprocessor; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = card.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMultiProcessorCount: *value = card.multiProcessorCount; break;
    case cudaDevAttrWarpSize: *value = card.warpSize; break;
    case cudaDevAttrL2CacheSize: *value = card.l2CacheSize; break;
    case cudaDevAttrClockRate: *value = 1980000; break;
    case cudaDevAttrComputeCapabilityMajor: *value = card.major; break;
    default: *value = 0;
    }
    return cudaSuccess;
}
PUBLIC cudaError_t cudaDeviceGetPCIBusId(char *id, int length, int device) {
    strncpy(id, "0000:01:00.0", (size_t)length);
    return cudaSuccess;
}
PUBLIC cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int other) {
    *can = 1;
    return cudaSuccess;
}
PUBLIC cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDART_VERSION / 1000 * 1000;
    return cudaSuccess;
}
NOTHING_TO_DO(cudaGetLastError, void)
NOTHING_TO_DO(cudaPeekAtLastError, void)

/* -- the driver */

static int succeed(void) { return 0; }

PUBLIC cudaError_t cudaGetDriverEntryPointByVersion(
    const char *name, void **entry, unsigned version, unsigned long long flags, enum cudaDriverEntryPointQueryResult *found) {
    *entry = (void *)succeed;
    if (found) *found = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}
PUBLIC CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    *flags = 0;
    *active = 1;
    return CUDA_SUCCESS;
}
PUBLIC CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    *context = (CUcontext)1;
    return CUDA_SUCCESS;
}
PUBLIC CUresult cuCtxGetCurrent(CUcontext *context) { return cuDevicePrimaryCtxRetain(context, 0); }
PUBLIC CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    *device = ordinal;
    return CUDA_SUCCESS;
}
PUBLIC CUresult cuGetErrorString(CUresult error, const char **text) {
    *text = "an error of the simulated device";
    return CUDA_SUCCESS;
}
