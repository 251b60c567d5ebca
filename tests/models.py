"""Model repositories for Triton, made by hand: graphs in ONNX's own notation, and configurations."""

import numpy as np
import onnx
from google.protobuf import text_format
from onnx import TensorProto, numpy_helper, parser
from tritonclient.grpc import model_config_pb2 as pb

TYPES = {
    TensorProto.BOOL: pb.TYPE_BOOL,
    TensorProto.FLOAT16: pb.TYPE_FP16,
    TensorProto.FLOAT: pb.TYPE_FP32,
    TensorProto.INT32: pb.TYPE_INT32,
    TensorProto.INT64: pb.TYPE_INT64,
    TensorProto.UINT8: pb.TYPE_UINT8,
}


def write_config(folder, inputs, outputs, parameters=None, **fields):
    """Write <folder>/config.pbtxt and make <folder>/1; a tensor is its name, type and dims without the batch axis."""
    config = pb.ModelConfig(name=folder.name, max_batch_size=32, **fields)
    for target, tensors in ((config.input, inputs), (config.output, outputs)):
        for name, type_, dims in tensors:
            target.add(name=name, data_type=type_, dims=dims)
    for key, text in (parameters or {}).items():
        config.parameters[key].string_value = text
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config, as_utf8=True))
    return folder


def tensor_of(value):
    tensor = value.type.tensor_type
    return value.name, TYPES[tensor.elem_type], [size.dim_value or -1 for size in tensor.shape.dim[1:]]


def write_onnx(folder, graph, weights=None, external=False, **fields):
    """Write a graph with its weights and the configuration that it needs; returns the ONNX file."""
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["": 18]> {folder.name} {graph}')
    constants = (numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items())
    model.graph.initializer.extend(constants)
    onnx.checker.check_model(model, full_check=True)
    inputs, outputs = (map(tensor_of, side) for side in (model.graph.input, model.graph.output))
    group = pb.ModelInstanceGroup(count=1, kind=pb.ModelInstanceGroup.KIND_CPU)
    write_config(folder, inputs, outputs, backend="onnxruntime", instance_group=[group], **fields)
    path = folder / "1" / "model.onnx"
    onnx.save(model, path, save_as_external_data=external, location="model.onnx.data", size_threshold=0)
    return path


def write_ensemble(folder, inputs, outputs, steps, parameters=None):
    """Chain models: steps are (model, its inputs, its outputs), each a mapping to the ensemble's own names."""
    scheduling = pb.ModelEnsembling()
    for model, taken, given in steps:
        scheduling.step.add(model_name=model, model_version=-1, input_map=taken, output_map=given)
    write_config(folder, inputs, outputs, parameters, platform="ensemble", ensemble_scheduling=scheduling)


def same(*names):
    return {name: name for name in names}
