/* cuBLAS and cuDNN of the simulated device: a product takes as long as five kernels, a convolution as long as ten.
 *
 * Functions are declared with the arguments that are used; the callers' further ones are ignored, which this ABI allows.
 */
#include <cudnn_backend.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PUBLIC __attribute__((visibility("default")))

void simulated_kernels(void *stream, double count);

static long handle_room[64]; /* what handles point to; never looked into */

/* -- cuBLAS */

static void *blas_stream;

PUBLIC int cublasCreate_v2(void **handle) { *handle = handle_room; return 0; }
PUBLIC int cublasDestroy_v2(void *handle) { return 0; }
PUBLIC int cublasSetStream_v2(void *handle, void *stream) { blas_stream = stream; return 0; }
PUBLIC int cublasGetMathMode(void *handle, int *mode) { *mode = 0; return 0; }
PUBLIC int cublasGetPointerMode_v2(void *handle, int *mode) { *mode = 0; return 0; }

#define PRODUCT(name) PUBLIC int name(void) { simulated_kernels(blas_stream, 5); return 0; }
PRODUCT(cublasSgemm_v2)
PRODUCT(cublasGemmEx)
PRODUCT(cublasGemmStridedBatchedEx)
PRODUCT(cublasSgemmStridedBatched)
PRODUCT(cublasLtMatmul)

#define LT_HEURISTIC_RESULT 96 /* bytes of a cublasLtMatmulHeuristicResult_t */
PUBLIC int cublasLtMatmulAlgoGetHeuristic(
    void *handle, void *operation, void *a, void *b, void *c, void *d, void *preference, int wanted, char *results, int *found) {
    memset(results, 0, LT_HEURISTIC_RESULT);
    *found = 1;
    return 0;
}
PUBLIC int cublasLtMatmulDescCreate(void **made, int compute, int type) { *made = handle_room; return 0; }
PUBLIC int cublasLtMatrixLayoutCreate(void **made, int type, uint64_t rows, uint64_t columns, int64_t leading) {
    *made = handle_room;
    return 0;
}
PUBLIC int cublasLtMatmulPreferenceCreate(void **made) { *made = handle_room; return 0; }

/* -- cuDNN */

static void *dnn_stream;

PUBLIC cudnnStatus_t cudnnCreate(cudnnHandle_t *handle) { *handle = (cudnnHandle_t)handle_room; return CUDNN_STATUS_SUCCESS; }
PUBLIC cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) { dnn_stream = stream; return CUDNN_STATUS_SUCCESS; }
PUBLIC cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t *stream) { *stream = dnn_stream; return CUDNN_STATUS_SUCCESS; }

#define DESCRIPTOR 256 /* bytes; more than any descriptor that is written to */
PUBLIC cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *made) {
    *made = calloc(1, DESCRIPTOR);
    return CUDNN_STATUS_SUCCESS;
}
PUBLIC cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t made) { free(made); return CUDNN_STATUS_SUCCESS; }

/* Every attribute is one zero; engines have no notes and no knobs, so that the first one is always fit. */
PUBLIC cudnnStatus_t cudnnBackendGetAttribute(
    const cudnnBackendDescriptor_t made, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t wanted,
    int64_t *count, void *values) {
    int none = name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE || name == CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE || name == CUDNN_ATTR_ENGINE_KNOB_INFO;
    int wide = type == CUDNN_TYPE_INT64 || type == CUDNN_TYPE_DOUBLE || type == CUDNN_TYPE_VOID_PTR;
    if (values && type != CUDNN_TYPE_BACKEND_DESCRIPTOR) memset(values, 0, wide ? 8 : 4);
    if (count) *count = values && none ? 0 : 1;
    return CUDNN_STATUS_SUCCESS;
}
PUBLIC cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
    simulated_kernels(dnn_stream, 10);
    return CUDNN_STATUS_SUCCESS;
}

#define MADE(name) PUBLIC int name(void **made) { *made = calloc(1, DESCRIPTOR); return 0; }
MADE(cudnnCreateTensorDescriptor)
MADE(cudnnCreateActivationDescriptor)
MADE(cudnnCreateFilterDescriptor)
MADE(cudnnCreateDropoutDescriptor)
MADE(cudnnCreateConvolutionDescriptor)
MADE(cudnnCreatePoolingDescriptor)

PUBLIC int cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(
    void *handle, int mode, int ops, void *x, void *z, void *y, void *scale, void *activation, size_t *size) {
    *size = 0;
    return 0;
}
PUBLIC int cudnnGetBatchNormalizationTrainingExReserveSpaceSize(
    void *handle, int mode, int ops, void *activation, void *x, size_t *size) {
    *size = 0;
    return 0;
}
PUBLIC int cudnnGetBatchNormalizationBackwardExWorkspaceSize(
    void *handle, int mode, int ops, void *x, void *y, void *dy, void *dz, void *dx, void *scale, void *activation, size_t *size) {
    *size = 0;
    return 0;
}
PUBLIC int cudnnDropoutGetStatesSize(void *handle, size_t *size) { *size = 1024; return 0; }
