"""smooth-activations: outlier channels go from activations into weights, before INT8 puts one scale on all of them.

The function stays the same: what is divided out of a LayerNorm's affine, of V or of Q is multiplied into what reads it.
Each site is searched and kept only where the measured error falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitc.errors import CalibrationError
from vitc.graph import Rewriter, module_path
from vitc.graph.program import Program
from vitc.passes.quantization.error.importance import ProbeImages
from vitc.passes.quantization.error.measured_error import probe
from vitc.passes.quantization.observe.observe import observe
from vitc.passes.quantization.observe.statistics import ChannelStatistics
from vitc.passes.quantization.smoothing.smooth_search import Smoothing
from vitc.passes.quantization.smoothing.smooth_sites import ReadSite, ScoreSite, Site, sites_at
from vitc.pipeline import Pass, register_pass


@register_pass
@dataclass(frozen=True)
class SmoothActivations(Pass):
    """Moves outlier channels from activations into the weights that read them, before INT8 gives all of them one scale.

    alphas:    how much of the difference between channels goes into the weights, tried at each site; 1 is all of it.
    shift:     also tries to move the range of each channel to its middle.
    attention: also balances Q against K, for attention in INT8.
    seed:      of the sample of activations.
    """

    name = "smooth-activations"
    needs = "tiled"
    before = ("quantize-int8",)

    alphas: tuple[float, ...] = (0.5, 0.65, 0.8, 1.0)
    shift: bool = True
    attention: bool = True
    seed: int = 0

    def run(self, program: Program) -> Program:
        sites = [site for node in program.graph.nodes for site in sites_at(node)]
        sites = [site for site in sites if self.attention or not isinstance(site, ScoreSite)]
        program = self._with_factors(program, sites)
        rewriter = Rewriter(program.module, self.name)
        kept = 0
        for site in sites:
            factors = site.factors(program.findings)
            if factors is not None and factors.kept:
                site.apply(rewriter, factors)
                kept += 1
        rewriter.finish()
        return program.note(f"{kept} of {len(sites)} sites smoothed, the others are better as they are")

    def _with_factors(self, program: Program, sites: Sequence[Site]) -> Program:
        if all(site.factors(program.findings) is not None for site in sites):
            return program
        if program.calibration is None:
            raise CalibrationError(
                f"smooth-activations needs calibration data for {len(sites)} sites and there is none; "
                "pass calibration=images, or leave the pass out"
            )
        images = ProbeImages(program, self.seed)
        parts = {name: part for site in sites for name, part in site.parts().items()}
        channels = {name: ChannelStatistics() for name in parts}
        watching = [pair for name, part in parts.items() for pair in part.watched(channels[name])]
        observe(program, [*watching, *images.observers()])
        probes = probe(images, parts, channels, {s.tensor.name: s.readers for s in sites if isinstance(s, ReadSite)})
        for site in sites:
            found = site.search(probes, program.module, self.alphas, self.shift)
            program = program.note(_line(site, found))
            program = program.calibrated(site.findings(found.factors))
        return program


def _line(site: Site, found: Smoothing) -> str:
    home = module_path(site.tensor) or site.tensor.name
    what = f"{home}, q against k" if isinstance(site, ScoreSite) else home
    return f"{what}: {found.label}, error ×{found.after / found.before:.2f}" if found.kept else f"{what}: left as it is"
