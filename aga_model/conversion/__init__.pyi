from .albef import load_albef
from .bert import load_bert
from .clip import load_clip
from .encoders import load_rde, load_tbps_clip
from .irra import load_irra
from .onnx_export import TOLERANCE, ExportError, export_onnx
from .recognition import Recognised, recognise
from .state import ConversionError
from .text_encoder import write_text_encoder

__all__ = [
    "TOLERANCE",
    "ConversionError",
    "ExportError",
    "Recognised",
    "export_onnx",
    "load_albef",
    "load_bert",
    "load_clip",
    "load_irra",
    "load_rde",
    "load_tbps_clip",
    "recognise",
    "write_text_encoder",
]
