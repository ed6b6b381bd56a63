"""Make TRITON_INTERPRET=1 give right answers for bf16/fp8 and run with numpy >= 2.4.

Import BEFORE any @triton.jit kernel runs (after TRITON_INTERPRET=1 is in the environment).
Works on triton 3.5.1 ... 3.9.0.  Fixes:
  * 3.5/3.6: int(1-element array) raises on numpy >= 2.4 (`range(0, K)` with a runtime K)
  * tl.dot / arithmetic / math / reductions on bf16 act on the raw uint16 bits (silently wrong)
  * int->bf16, fp16<->bf16 casts are raw astype; fp32->bf16 truncates instead of RTNE
  * fp8 casts: rounding carries are OR-ed, no saturation
  * optional GPU-like check of tl.dot's minimum shape (interpreter accepts 1x1x1)
"""

import os

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter as I

STRICT_DOT = True  # raise where the NVIDIA backend would refuse the shape
B = I.InterpreterBuilder
TH = I.TensorHandle
_F8 = {tl.float8e5: torch.float8_e5m2, tl.float8e4nv: torch.float8_e4m3fn}
_F8MAX = {tl.float8e5: 57344.0, tl.float8e4nv: 448.0}
_SPECIAL = {tl.bfloat16, *_F8}


def decode(data, ty):
    """raw numpy storage -> float32 numpy"""
    if ty == tl.bfloat16:
        return (data.astype(np.uint32) << 16).view(np.float32)
    if ty in _F8:
        return torch.from_numpy(np.ascontiguousarray(data)).view(_F8[ty]).float().numpy()
    return data


def encode(f, ty):
    """float numpy -> raw numpy storage, round to nearest even (fp8: saturating, as cvt.rn.satfinite)"""
    f = np.ascontiguousarray(f, dtype=np.float32)
    if ty == tl.bfloat16:
        u = f.view(np.uint32)
        r = ((u.astype(np.uint64) + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)
        nan = np.isnan(f)
        if nan.any():
            r = np.where(nan, np.uint16(0x7FC0), r)
        return r.reshape(f.shape)
    m = _F8MAX[ty]
    t = torch.from_numpy(f)
    t = torch.where(t.isnan(), t, t.clamp(-m, m))
    return t.to(_F8[ty]).view(torch.uint8).numpy().reshape(f.shape)


def _sp(h):
    return h.dtype.scalar in _SPECIAL


def _dec(h):
    return TH(decode(h.data, h.dtype.scalar), tl.float32) if _sp(h) else h


_binary, _unary, _ternary, _cast, _f2f, _dot, _fma = (
    B.binary_op,
    B.unary_op,
    B.ternary_op,
    B.cast_impl,
    B.create_fp_to_fp,
    B.create_dot,
    B.create_fma,
)
_CMP = {np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal}
_RAW = {np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.left_shift, np.right_shift}


def binary_op(self, lhs, rhs, op):
    if op in _RAW or not (_sp(lhs) or _sp(rhs)):
        return _binary(self, lhs, rhs, op)
    ty = lhs.dtype.scalar
    out = op(decode(lhs.data, lhs.dtype.scalar), decode(rhs.data, rhs.dtype.scalar))
    if op in _CMP:
        return TH(out, tl.int1) if False else TH(out, ty)  # same convention as upstream (dtype fixed by the caller)
    return TH(encode(out, ty), ty)


def unary_op(self, arg, op):
    if not _sp(arg):
        return _unary(self, arg, op)
    return TH(encode(op(decode(arg.data, arg.dtype.scalar)), arg.dtype.scalar), arg.dtype.scalar)


def ternary_op(self, a, b, c, op):
    if op is np.where or not _sp(c):
        return _ternary(self, a, b, c, op)
    return TH(encode(op(_dec(a).data, _dec(b).data, _dec(c).data), c.dtype.scalar), c.dtype.scalar)


def create_fma(self, x, y, z):
    if not _sp(z):
        return _fma(self, x, y, z)
    return TH(encode(_dec(x).data * _dec(y).data + _dec(z).data, z.dtype.scalar), z.dtype.scalar)


def cast_impl(self, src, dst_type):
    s, d = src.dtype.scalar, dst_type.scalar
    if s not in _SPECIAL and d not in _SPECIAL:
        return _cast(self, src, dst_type)
    f = decode(src.data, s)
    return TH(encode(f, d) if d in _SPECIAL else f.astype(I._get_np_dtype(dst_type)), d)


def create_fp_to_fp(self, src, dst_type, rounding_mode):
    s, d = src.dtype.scalar, dst_type.scalar
    if (s in _SPECIAL or d in _SPECIAL) and (rounding_mode is None or rounding_mode == I._ir.ROUNDING_MODE.RTNE):
        return cast_impl(self, src, dst_type)
    return _f2f(self, src, dst_type, rounding_mode)


def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
    if STRICT_DOT:
        k, bits = a.data.shape[-1], a.dtype.scalar.primitive_bitwidth
        if k < (32 if bits == 8 else 16):  # nvidia min_dot_size: (1,1,16), 8-bit (1,1,32)
            raise ValueError(f"tl.dot K={k} ({bits} bit) is below the NVIDIA minimum")
        if a.dtype.scalar != b.dtype.scalar and not (bits == 8 and _sp(a) and _sp(b)):
            raise ValueError(f"tl.dot operand types differ: {a.dtype} x {b.dtype}")
    if a.data.dtype == np.int8 and b.data.dtype == np.int8 and a.data.shape[-1] < 1 << 9:
        # exact in float32 below 2^24: BLAS instead of numpy's slow integer matmul
        r = np.matmul(a.data.astype(np.float32), b.data.astype(np.float32))
        return TH(r.astype(d.data.dtype) + d.data, d.dtype.scalar)
    a, b = _dec(a), _dec(b)
    if _sp(d):
        r = np.matmul(a.data, b.data, dtype=np.float32) + decode(d.data, d.dtype.scalar)
        return TH(encode(r, d.dtype.scalar), d.dtype.scalar)
    return TH(np.matmul(a.data, b.data, dtype=d.data.dtype) + d.data, d.dtype.scalar)


for _n, _f in {
    "binary_op": binary_op,
    "unary_op": unary_op,
    "ternary_op": ternary_op,
    "create_fma": create_fma,
    "cast_impl": cast_impl,
    "create_fp_to_fp": create_fp_to_fp,
    "create_dot": create_dot,
}.items():
    setattr(B, _n, _f)

B.get_bf16 = lambda self, v: TH(encode(np.array([v], np.float32), tl.bfloat16), tl.bfloat16)  # missing in <= 3.6

# reductions: numpy fast paths on decoded data
_minmax, _sum, _cumsum, _cumprod = I.ReduceOps.min_max, I.ReduceOps.sum, I.ScanOps.cumsum, I.ScanOps.cumprod


def _wrap(fn):
    def f(self, input, *a, **k):
        x = input[0] if isinstance(input, tuple) else input
        ty = x.dtype
        if ty not in _SPECIAL:
            return fn(self, input, *a, **k)
        fx = self.to_tensor(decode(x.handle.data, ty), tl.float32)
        r = fn(self, fx, *a, **k)

        def back(t):
            return self.to_tensor(encode(t.handle.data, ty), ty) if t.dtype == tl.float32 else t

        if isinstance(r, (tuple, list)):
            return type(r)(back(t) for t in r)
        return back(r)

    return f


I.ReduceOps.min_max, I.ReduceOps.sum = _wrap(_minmax), _wrap(_sum)
I.ScanOps.cumsum, I.ScanOps.cumprod = _wrap(_cumsum), _wrap(_cumprod)

_orig_patch_tensor = I._patch_lang_tensor


def _patch_lang_tensor(tensor, *a, **k):
    r = _orig_patch_tensor(tensor, *a, **k)
    tensor.__index__ = lambda self: int(np.asarray(self.handle.data).reshape(-1)[0])
    return r


I._patch_lang_tensor = _patch_lang_tensor


# ------------------------------------------------------------------ memory checks (opt-in: INTERP_CHECK=bounds,race)
class MemCheck:
    """Bounds: every unmasked address must lie in a tensor argument.  Race: no address plainly stored by one
    program may be stored / read / atomically updated by another program of the same launch."""

    def __init__(self, what):
        self.bounds, self.race = "bounds" in what, "race" in what
        self.extra = []
        self.active = False

    def allow(self, *tensors):  # memory reached through pointer tables
        self.extra += [(t.data_ptr(), t.data_ptr() + t.untyped_storage().nbytes(), "extra") for t in tensors]

    def begin(self, named):
        r = list(self.extra)
        for name, t in named:
            n = (sum((s - 1) * st for s, st in zip(t.shape, t.stride())) + 1) * t.element_size() if t.numel() else 0
            r.append((t.data_ptr(), t.data_ptr() + n, name))
        r.sort()
        # merge overlapping views
        m = []
        for x in r:
            if m and x[0] <= m[-1][1]:
                m[-1] = (m[-1][0], max(m[-1][1], x[1]), m[-1][2] + "|" + x[2])
            else:
                m.append(x)
        self.names = [x[2] for x in m]
        self.starts = np.array([x[0] for x in m], np.uint64)
        self.ends = np.array([x[1] for x in m], np.uint64)
        self.log = {"R": [], "W": [], "A": []}
        self.active = True

    def touch(self, kind, ptrs, mask, size):
        if not self.active:
            return
        # integers would pick rows instead of masking them
        mask = mask.astype(bool)
        p = np.broadcast_to(ptrs, np.broadcast_shapes(ptrs.shape, mask.shape))[
            np.broadcast_to(mask, np.broadcast_shapes(ptrs.shape, mask.shape))
        ]
        if not p.size:
            return
        if self.bounds:
            i = np.searchsorted(self.starts, p, "right").astype(np.int64) - 1
            bad = (i < 0) | (p + np.uint64(size) > self.ends[np.maximum(i, 0)])
            if bad.any():
                q = int(p[bad][0])
                j = int(np.searchsorted(self.starts, q, "right")) - 1
                where = (
                    f"{q - int(self.starts[j])} bytes after the start of '{self.names[j]}'"
                    f" ({int(self.ends[j] - self.starts[j])} bytes)"
                    if j >= 0
                    else "before every argument"
                )
                raise IndexError(
                    f"out-of-bounds { {'R': 'load', 'W': 'store', 'A': 'atomic'}[kind] } in program"
                    f" {I.interpreter_builder.grid_idx}: {int(bad.sum())}/{p.size} lanes, first at {where}"
                )
        if self.race:
            if kind == "W":
                _u, c = np.unique(p, return_counts=True)
                if (c > 1).any():
                    self.log.setdefault("dup", []).append(int((c > 1).sum()))
            pid = I.interpreter_builder.grid_idx
            self.log[kind].append((np.unique(p), (pid[2] << 42) | (pid[1] << 21) | pid[0]))

    def end(self, ok):
        self.active = False
        if not (ok and self.race):
            return

        def flat(k):
            l = self.log[k]
            return (
                (np.concatenate([a for a, _ in l]), np.concatenate([np.full(a.size, i, np.int64) for a, i in l]))
                if l
                else (np.zeros(0, np.uint64), np.zeros(0, np.int64))
            )

        w, wi = flat("W")
        pairs = np.unique(np.stack([w.astype(np.int64), wi], 1), axis=0) if w.size else np.zeros((0, 2), np.int64)
        _u, c = np.unique(pairs[:, 0], return_counts=True)
        if (c > 1).any():
            raise RuntimeError(f"race: {int((c > 1).sum())} addresses stored by more than one program")
        for k, nm in (("R", "read"), ("A", "atomically updated")):
            o, oi = flat(k)
            if not o.size or not pairs.size:
                continue
            pos = np.searchsorted(pairs[:, 0], o.astype(np.int64))
            pos = np.minimum(pos, len(pairs) - 1)
            hit = (pairs[pos, 0] == o.astype(np.int64)) & (pairs[pos, 1] != oi)
            if hit.any():
                raise RuntimeError(f"race: {int(hit.sum())} addresses stored by one program and {nm} by another")


CHECK = MemCheck(os.environ.get("INTERP_CHECK", ""))
_ml, _ms, _rmw, _cas = B.create_masked_load, B.create_masked_store, B.create_atomic_rmw, B.create_atomic_cas


def _sz(ptrs):
    return max(1, ptrs.get_element_ty().primitive_bitwidth // 8)


def _load(self, ptrs, mask, other, *a, **k):
    CHECK.touch("R", ptrs.data, mask.data, _sz(ptrs))
    return _ml(self, ptrs, mask, other, *a, **k)


def _store(self, ptrs, value, mask, *a, **k):
    CHECK.touch("W", ptrs.data, np.asarray(getattr(mask, "data", mask)), _sz(ptrs))
    return _ms(self, ptrs, value, mask, *a, **k)


def _armw(self, op, ptr, val, mask, *a, **k):
    CHECK.touch("A", ptr.data, mask.data, _sz(ptr))
    if val.dtype.scalar == tl.bfloat16 and op in (I._ir.ATOMIC_OP.FADD, I._ir.ATOMIC_OP.ADD):  # not in the C++ helper
        import ctypes

        p = np.broadcast_to(ptr.data, val.data.shape).reshape(-1)
        m = np.broadcast_to(mask.data, val.data.shape).reshape(-1)
        v = decode(np.ascontiguousarray(val.data), tl.bfloat16).reshape(-1)
        old = np.zeros(v.shape, np.uint16)
        for j in np.nonzero(m)[0]:
            c = ctypes.c_uint16.from_address(int(p[j]))
            old[j] = c.value
            c.value = int(encode(decode(np.array([c.value], np.uint16), tl.bfloat16) + v[j], tl.bfloat16)[0])
        return TH(old.reshape(val.data.shape), tl.bfloat16)
    return _rmw(self, op, ptr, val, mask, *a, **k)


def _acas(self, ptr, cmp, val, *a, **k):
    CHECK.touch("A", ptr.data, np.ones_like(ptr.data, dtype=bool), _sz(ptr))
    return _cas(self, ptr, cmp, val, *a, **k)


B.create_atomic_rmw = _armw
if CHECK.bounds or CHECK.race:
    B.create_masked_load, B.create_masked_store, B.create_atomic_cas = _load, _store, _acas
    _init, _call = I.GridExecutor._init_args_hst, I.GridExecutor.__call__

    def _init_args_hst(self, args_dev, kwargs):
        a, k = _init(self, args_dev, kwargs)
        named = []
        for n, v in [*zip(self.arg_names, a), *k.items()]:
            v = getattr(v, "base", v) if not isinstance(v, torch.Tensor) else v
            if isinstance(v, torch.Tensor):
                named.append((n, v))
        CHECK.begin(named)
        return a, k

    def __call__(self, *a, **k):
        ok = False
        try:
            r = _call(self, *a, **k)
            ok = True
            return r
        finally:
            CHECK.end(ok)

    I.GridExecutor._init_args_hst, I.GridExecutor.__call__ = _init_args_hst, __call__
