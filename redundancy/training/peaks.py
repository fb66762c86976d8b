"""Peak arithmetic rates of devices, with which metrics compare a training."""

import re

# Dense FLOP/s of matrix products, by a substring of JAX's device_kind: (bfloat16, float32 as JAX computes it by default).
# Sources: NVIDIA's data sheets (H100 and H200 SXM, A100, L4; float32 products run as TF32), Google Cloud's pages of each TPU
# generation (float32 products run as one bfloat16 pass). A name that contains another one comes before it.
_PEAKS = {
    "H200": (989e12, 494e12),
    "H100": (989e12, 494e12),
    "A100": (312e12, 156e12),
    "L4": (121e12, 60e12),
    "TPU v6": (918e12, 918e12),
    "TPU v5 lite": (197e12, 197e12),
    "TPU v5e": (197e12, 197e12),
    "TPU v5": (459e12, 459e12),
    "TPU v4": (275e12, 275e12),
}


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Peak FLOP/s of one device; None if unknown, as for CPUs.

    Args:
      device_kind: as JAX names it.
      dtype: 'bfloat16' or 'float32'.
    """
    for name, (bfloat16, float32) in _PEAKS.items():
        if re.search(rf"(\b|G){name}(\b|p|e)", device_kind):
            return bfloat16 if dtype == "bfloat16" else float32
    return None
