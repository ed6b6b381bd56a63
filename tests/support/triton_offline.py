"""GPU-free compile + static resource report for Triton kernels (3.5 ... 3.9 same API).

compile_report(kernel, signature, constexprs, arch=89, ...)  -> Report
compile_launch(kernel, args, kwargs, arch=89)                -> Report, specialising exactly like kernel[grid](*args)
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

assert os.environ.get("TRITON_INTERPRET") != "1", "offline compile needs real JITFunctions: run in another process"
BIN = Path(triton.__file__).parent / "backends/nvidia/bin"

#            smem/block opt-in, smem/SM, regs/SM, max warps/SM, max blocks/SM, reserved smem/block, SMs,  HBM GB/s,
# dense fp16 TF (f32 acc), int8 TOPS
ARCH = {
    89: {
        "name": "RTX 4090",
        "smem_block": 101376,
        "smem_sm": 102400,
        "regs_sm": 65536,
        "warps_sm": 48,
        "blocks_sm": 24,
        "smem_res": 1024,
        "sms": 128,
        "bw": 1008e9,
        "tf16": 165.2e12,
        "tf8": 330.3e12,
        "ti8": 660.6e12,
        "l2": 72 << 20,
    },
    90: {
        "name": "H200",
        "smem_block": 232448,
        "smem_sm": 233472,
        "regs_sm": 65536,
        "warps_sm": 64,
        "blocks_sm": 32,
        "smem_res": 1024,
        "sms": 132,
        "bw": 4.8e12,
        "tf16": 989.4e12,
        "tf8": 1978.9e12,
        "ti8": 1978.9e12,
        "l2": 50 << 20,
    },
}


@dataclasses.dataclass
class Report:
    name: str
    arch: int
    num_warps: int
    num_stages: int
    shared: int  # dynamic shared memory requested by Triton (bytes per block)
    regs: int
    stack: int  # bytes of local stack per thread
    spill_stores: int  # bytes
    spill_loads: int
    static_smem: int
    ptx: str
    cubin: bytes
    ttgir: str
    metadata: dict
    sass_text: str | None = None

    def sass(self):
        if self.sass_text is None:
            with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
                f.write(self.cubin)
                f.flush()
                self.sass_text = subprocess.run(
                    [BIN / "nvdisasm", "-c", f.name], capture_output=True, text=True, check=True
                ).stdout
        return self.sass_text

    def ptx_counts(self):
        pats = {
            "mma": r"\bmma\.sync",
            "wgmma": r"\bwgmma\.mma_async",
            "ldmatrix": r"\bldmatrix",
            "stmatrix": r"\bstmatrix",
            "cp_async": r"\bcp\.async\.c[ag]",
            "tma": r"\bcp\.async\.bulk\.tensor",
            "ld_global": r"\bld\.global",
            "st_global": r"\bst\.global",
            "atom": r"\b(?:atom|red)\.(?:[a-z_.]*)global",
            "bar": r"\bbar\.sync|\bbarrier\.sync",
            "lop3": r"\blop3",
        }
        return {k: len(re.findall(p, self.ptx)) for k, p in pats.items()}

    def vec_loads(self):
        """global load widths in the PTX, e.g. {'v4.b32': 8, 'b16': 64}: narrow loads mean lost coalescing/alignment"""
        c = {}
        for m in re.finditer(r"\bld\.global((?:\.[A-Za-z0-9_:]+)*)", self.ptx):
            parts = [p for p in m.group(1).split(".") if p and re.fullmatch(r"v\d|[bsuf]\d+", p)]
            k = ".".join(parts)
            c[k] = c.get(k, 0) + 1
        return c

    def sass_counts(self):
        c = {}
        for m in re.finditer(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+\s+)?([A-Z0-9_]+)", self.sass(), re.M):
            c[m.group(1)] = c.get(m.group(1), 0) + 1
        return c

    def loop_instructions(self):
        """SASS instructions of one turn of the longest loop: what a warp must issue per block of K."""
        labels, position, best = {}, 0, 0
        for line in self.sass().splitlines():
            if found := re.match(r"^(\.L\w+):", line):
                labels[found[1]] = position
            elif found := re.match(r"^\s+/\*[0-9a-f]+\*/\s+(.*?);", line):
                target = re.search(r"\bBRA.*`\((\.L\w+)\)", found[1])
                if target and target[1] in labels:
                    best = max(best, position - labels[target[1]] + 1)
                position += 1
        return best

    def occupancy(self):
        return occupancy(self.regs, self.shared + self.static_smem, self.num_warps, self.arch)

    def check(self, max_regs=255, max_spill=0, min_blocks=1, smem=None):
        a = ARCH[self.arch]
        smem = smem or a["smem_block"]
        bad = []
        if self.shared + self.static_smem > smem:
            bad.append(f"shared {self.shared + self.static_smem} > {smem}")
        if self.regs > max_regs:
            bad.append(f"regs {self.regs} > {max_regs}")
        if self.spill_stores + self.spill_loads > max_spill:
            bad.append(f"spills st {self.spill_stores} B ld {self.spill_loads} B")
        if not bad and self.occupancy()["blocks"] < min_blocks:
            bad.append(f"blocks/SM {self.occupancy()['blocks']} < {min_blocks}")
        assert not bad, f"{self.name} sm_{self.arch}: " + "; ".join(bad)
        return self

    def line(self):
        o = self.occupancy()
        return (
            f"{self.name:28s} sm_{self.arch} w{self.num_warps} s{self.num_stages} regs {self.regs:3d} "
            f"shared {self.shared:6d} stack {self.stack} spill {self.spill_stores}/{self.spill_loads} "
            f"blocks/SM {o['blocks']} ({o['limit']}) occ {o['occupancy']:.0%}"
        )


def occupancy(regs, smem, num_warps, arch):
    a = ARCH[arch]
    rw = -(-regs * 32 // 256) * 256  # registers are given per warp in units of 256
    warps_by_reg = (a["regs_sm"] // 4 // rw) * 4 if rw else a["warps_sm"]  # 4 sub-partitions
    by = {
        "warps": a["warps_sm"] // num_warps,
        "blocks": a["blocks_sm"],
        "regs": warps_by_reg // num_warps,
        "smem": a["smem_sm"] // (-(-(smem + a["smem_res"]) // 128) * 128),
    }
    lim = min(by, key=by.get)
    return {"blocks": by[lim], "limit": lim, "occupancy": by[lim] * num_warps / a["warps_sm"], "by": by}


def _ptxas(arch):
    """the ptxas Triton itself picks (3.9 uses ptxas-blackwell, PTX 9.x, for sm_90)"""
    from triton.backends.nvidia import compiler as nv

    try:
        return nv.get_ptxas(arch).path
    except Exception:
        return str(BIN / "ptxas")


def ptxas_usage(ptx: str, arch: int, extra=()):
    """Re-run the bundled ptxas -v on the PTX: the only place that reports spill bytes."""
    with tempfile.TemporaryDirectory() as d:
        p = Path(d) / "k.ptx"
        p.write_text(ptx)
        r = subprocess.run(  # noqa: PLW1510
            [
                _ptxas(arch),
                "-v",
                f"--gpu-name=sm_{arch}{'a' if arch >= 90 else ''}",
                *extra,
                str(p),
                "-o",
                str(Path(d) / "k.o"),
            ],
            capture_output=True,
            text=True,
        )
        if r.returncode:
            raise RuntimeError(r.stderr)
        t = r.stderr + r.stdout

    def g(pat):
        return int(m.group(1)) if (m := re.search(pat, t)) else 0

    return {
        "regs": g(r"Used (\d+) registers"),
        "stack": g(r"(\d+) bytes stack frame"),
        "spill_stores": g(r"(\d+) bytes spill stores"),
        "spill_loads": g(r"(\d+) bytes spill loads"),
        "static_smem": g(r"(\d+) bytes smem"),
        "barriers": g(r"used (\d+) barriers"),
    }


def cuobjdump_usage(cubin: bytes):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(cubin)
        f.flush()
        command = [BIN / "cuobjdump", "-res-usage", f.name]
        t = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    m = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", t)
    return dict(zip(("regs", "stack", "shared", "local"), map(int, m.groups()))) if m else {"raw": t}


def _report(k, name, arch):
    md = k.metadata._asdict() if hasattr(k.metadata, "_asdict") else dict(k.metadata)
    u = ptxas_usage(k.asm["ptx"], arch)
    return Report(
        name=name,
        arch=arch,
        num_warps=md["num_warps"],
        num_stages=md["num_stages"],
        shared=md["shared"],
        regs=u["regs"],
        stack=u["stack"],
        spill_stores=u["spill_stores"],
        spill_loads=u["spill_loads"],
        static_smem=u["static_smem"],
        ptx=k.asm["ptx"],
        cubin=k.asm["cubin"],
        ttgir=k.asm["ttgir"],
        metadata=md,
    )


def compile_report(kernel, signature, constexprs, arch=89, num_warps=4, num_stages=3, div16=None, **options):
    """signature: {arg: "*fp16" | "i32" | "fp32" | "constexpr"}; constexprs: {arg: value}
    div16: names of non-constexpr args that are multiples of 16 (default: every pointer, and every i32/i64)."""
    fn = kernel
    while not hasattr(fn, "arg_names") or not hasattr(fn, "cache_key"):
        fn = fn.fn
    sig = {n: ("constexpr" if n in constexprs else signature[n]) for n in fn.arg_names}
    if div16 is None:
        div16 = [n for n, t in sig.items() if t.startswith("*") or t in ("i32", "i64")]
    attrs = {(fn.arg_names.index(n),): [["tt.divisibility", 16]] for n in div16 if n in sig and sig[n] != "constexpr"}
    src = ASTSource(
        fn=fn, signature=sig, constexprs={(fn.arg_names.index(n),): v for n, v in constexprs.items()}, attrs=attrs
    )
    k = triton.compile(
        src, target=GPUTarget("cuda", arch, 32), options=dict(num_warps=num_warps, num_stages=num_stages, **options)
    )
    return _report(k, fn.__name__, arch)


class FakeDriver:
    """Enough of triton.backends.driver for kernel.warmup(): no GPU, no libcuda."""

    def __init__(self, arch):
        self.arch = arch

    def get_current_target(self):
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, dev=None):
        return 0

    def get_device_capability(self, dev=0):
        return divmod(self.arch, 10)

    def get_active_torch_device(self):
        import torch

        return torch.device("cpu")

    def get_device_interface(self):
        return None

    def get_benchmarker(self):
        return lambda fn, **kw: 0.0

    def get_empty_cache_for_benchmark(self):
        return None

    def clear_cache(self, c):
        pass

    def map_python_to_cpp_type(self, ty):
        return ty

    def launcher_cls(self, *a, **k):
        raise RuntimeError("no GPU")

    @property
    def utils(self):
        class U:
            @staticmethod
            def get_device_properties(d):
                return {"max_shared_mem": ARCH[89]["smem_block"], "multiprocessor_count": 128, "warpSize": 32}

        return U


def compile_launch(kernel, args, kwargs, arch=89):
    """Same specialisation (alignment, ==1, dtype) as a launch with these CPU tensors / scalars, then report."""
    from triton.runtime.driver import driver

    fn = kernel
    while not hasattr(fn, "device_caches"):
        fn = fn.fn
    driver.set_active(FakeDriver(arch))
    fn.device_caches.clear()
    k = fn.run(*args, grid=(1,), warmup=True, **kwargs)
    return _report(k, fn.__name__, arch)


def captured(launcher):
    """The kernel launches that launcher() would make, as [(kernel, args, kwargs)]: nothing runs, nothing compiles."""
    from triton.runtime.jit import JITFunction

    launches, run = [], JITFunction.run

    def record(self, *args, grid, warmup, **kwargs):
        launches.append((self, args, kwargs))

    JITFunction.run = record
    try:
        launcher()
    finally:
        JITFunction.run = run
    return launches
