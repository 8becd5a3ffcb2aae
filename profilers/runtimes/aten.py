"""ATen, torch's own set of operators: their names in ONNX, by which they are counted, and which of them are safe."""

from __future__ import annotations

__all__ = ["OPERATORS", "onnx_name"]

_SAFE = (
    # layers with weights
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d.input linear addmm mm bmm baddbmm matmul einsum outer "
    "embedding one_hot prelu scaled_dot_product_attention "
    # normalisation; the native batch norm believes the sizes it is given
    "batch_norm group_norm instance_norm layer_norm rms_norm linalg_vector_norm "
    # pooling and resizing; what is given sizes and scales at once believes the scales
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
    "avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool2d_with_indices "
    "upsample_nearest1d.vec upsample_nearest2d.vec _upsample_nearest_exact2d.vec upsample_bilinear2d.vec "
    "upsample_bicubic2d.vec pixel_shuffle pixel_unshuffle channel_shuffle pad constant_pad_nd im2col "
    # activations
    "relu relu6 hardtanh hardsigmoid hardswish leaky_relu elu celu selu gelu glu silu mish sigmoid log_sigmoid tanh "
    "softplus threshold hardshrink softshrink softmax _softmax log_softmax _log_softmax dropout "
    # arithmetic, element by element
    "add sub rsub mul div floor_divide remainder pow square sqrt rsqrt reciprocal exp expm1 log log1p log2 sin cos tan "
    "sinh cosh erf atan2 abs neg sign floor ceil round trunc maximum minimum clamp clamp_min clamp_max lerp addcmul "
    "addcdiv nan_to_num eq ne lt le gt ge logical_and logical_or logical_not where masked_fill tril triu "
    # reductions
    "mean sum prod amax amin max min argmax argmin all any std var var_mean logsumexp cumsum topk sort "
    # shapes; all of these check what they are asked for
    "reshape view.default flatten unflatten permute transpose t movedim unsqueeze squeeze expand expand_as repeat tile "
    "broadcast_to cat stack split split_with_sizes chunk unbind select slice narrow index index_select gather roll "
    "flip unfold clone contiguous alias detach lift_fresh_copy "
    # types; the assertion only compares, and returns nothing
    "to _to_copy type_as _assert_tensor_metadata "
    # constants
    "arange eye full full_like linspace new_full new_ones new_zeros ones ones_like scalar_tensor zeros zeros_like"
)
OPERATORS = frozenset(_SAFE.split())
"""What a file of operators may call: what returns new tensors or views and, as far as is known, checks all sizes.

It is meant for convolutional networks and transformers. A name with a dot is one overload, one without all of them. Not
here are, among others, `as_strided`, `_reshape_alias`, `empty` and what makes sparse tensors, which show other memory.
"""

_NAMES = {
    "abs": "Abs",
    "adaptive_avg_pool1d": "AveragePool",
    "adaptive_avg_pool2d": "AveragePool",
    "adaptive_max_pool2d": "MaxPool",
    "add": "Add",
    "addmm": "Gemm",
    "avg_pool2d": "AveragePool",
    "batch_norm": "BatchNormalization",
    "bmm": "MatMul",
    "cat": "Concat",
    "chunk": "Split",
    "clamp": "Clip",
    "clone": "Identity",
    "clone_dim_order": "Identity",
    "constant_pad_nd": "Pad",
    "contiguous": "Identity",
    "conv1d": "Conv",
    "conv2d": "Conv",
    "conv3d": "Conv",
    "conv_transpose1d": "ConvTranspose",
    "conv_transpose2d": "ConvTranspose",
    "convolution": "Conv",
    "dequantize_per_channel": "DequantizeLinear",
    "dequantize_per_tensor": "DequantizeLinear",
    "div": "Div",
    "dropout": "Dropout",
    "elu": "Elu",
    "exp": "Exp",
    "expand": "Expand",
    "flatten": "Reshape",
    "gelu": "Gelu",
    "hardsigmoid": "HardSigmoid",
    "hardswish": "HardSwish",
    "hardtanh": "Clip",
    "leaky_relu": "LeakyRelu",
    "linear": "Gemm",
    "log": "Log",
    "log_softmax": "Softmax",
    "matmul": "MatMul",
    "max_pool2d": "MaxPool",
    "max_pool2d_with_indices": "MaxPool",
    "mean": "ReduceMean",
    "mm": "MatMul",
    "mul": "Mul",
    "native_batch_norm_legit_no_training": "BatchNormalization",
    "native_layer_norm": "BatchNormalization",
    "layer_norm": "BatchNormalization",
    "pad": "Pad",
    "permute": "Transpose",
    "pixel_shuffle": "Transpose",
    "pow": "Pow",
    "prelu": "PRelu",
    "quantize_per_tensor": "QuantizeLinear",
    "relu": "Relu",
    "relu6": "Clip",
    "reshape": "Reshape",
    "rsqrt": "Math",
    "select": "Slice",
    "sigmoid": "Sigmoid",
    "silu": "Sigmoid",
    "slice": "Slice",
    "softmax": "Softmax",
    "split": "Split",
    "split_with_sizes": "Split",
    "sqrt": "Sqrt",
    "squeeze": "Squeeze",
    "sub": "Sub",
    "sum": "ReduceSum",
    "t": "Transpose",
    "tanh": "Tanh",
    "to": "Cast",
    "to_copy": "Cast",
    "to_dim_order_copy": "Cast",
    "transpose": "Transpose",
    "unsqueeze": "Unsqueeze",
    "upsample_bilinear2d": "Resize",
    "upsample_nearest2d": "Resize",
    "view": "Reshape",
    "where": "Where",
}


def onnx_name(name: str) -> str:
    """Returns the name of ONNX for an operator, or its own where it has none here: then it is not counted.

    >>> onnx_name("aten::view_copy"), onnx_name("aten::_softmax"), onnx_name("aten::lstm")
    ('Reshape', 'Softmax', 'aten::lstm')
    """
    short = name.rpartition("::")[2].lstrip("_")
    return _NAMES.get(short) or _NAMES.get(short.removesuffix("_copy"), name)
