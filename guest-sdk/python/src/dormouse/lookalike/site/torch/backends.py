"""`torch.backends`: switches that files set; they switch nothing."""

from __future__ import annotations

from types import SimpleNamespace

cuda = SimpleNamespace(matmul=SimpleNamespace(allow_tf32=False))
cudnn = SimpleNamespace(allow_tf32=False, benchmark=False, deterministic=False, enabled=False)
mps = SimpleNamespace(is_available=lambda: False)
