"""Exported bundles as models of `transformers` pipelines and of optimum.

Example:
    >>> from paligemma_onnx.optimum import ORTPaliGemma
    >>> from transformers import pipeline
    >>> model = ORTPaliGemma.from_pretrained("bundle/")
    >>> ask = pipeline("image-text-to-text", model=model, processor=model.processor)
    >>> ask("photo.jpg", text="<image>caption en", return_full_text=False)
    [{'input_text': '<image>caption en', 'generated_text': 'a red car parked on the street'}]
"""

try:
    from .ort_paligemma import ORTPaliGemma
except ModuleNotFoundError as error:
    if (error.name or "").startswith("paligemma_onnx"):
        raise
    raise ModuleNotFoundError(
        f"paligemma_onnx.optimum needs {error.name}: run `pip install 'paligemma-onnx[cpu,optimum]'`",
        name=error.name,
    ) from error

__all__ = ["ORTPaliGemma"]
