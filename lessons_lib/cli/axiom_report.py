"""What `evaluate counterfactuals` tells people: the measures in plain lines, and who became whom."""

from __future__ import annotations

from lessons_lib import evaluation


def named(result: dict) -> str:
    """A setting in a few words."""
    letter = "w" if result["guidance"] == "cfg" else "s"
    depth = "" if result["depth"] is None else f", depth {result['depth']}"
    scale = f"{result['guidance']}, {letter}={result['guidance_scale']:g}"
    return f"{result['method']}, {scale}{depth}, {result['steps']} steps"


def report(result: dict) -> str:
    """The result of `measure` for people."""
    near, back, least = result["proximity"], result["reversibility"], result["minimality"]
    lines = [
        f"{named(result)}, seed {result['seed']}; {result['images']}",
        f"read as the target    {_share(result['effectiveness'])}",
        f"L1 to the source      {near['l1']['value']:.4f}; in features {near['features']['value']:.3f} "
        "(1: two real images of different class)",
        f"there and back        read as the source {_share(back['read_as_source'])}, "
        f"off by {back['error']['value']:.4f}",
        *(
            f"null interventions    off by {mean['value']:.4f} after {n}, {mean['total']:,} images"
            for n, mean in result["composition"].items()
        ),
        f"real images nearer    {least['pixels']['value']:.2%} in pixels, "
        f"{least['features']['value']:.2%} in features",
    ]
    if result["feature_fid"] is not None:
        fids = (result[f"feature_fid{name}"] for name in ("", "_originals", "_floor"))
        lines.append("feature FID           {:.3f}; the originals {:.3f}, floor {:.3f}".format(*fids))
    if latents := result["with_stored_latents"]:
        told = f"off by {latents['error']:.4f}, {latents['num_images']} images"
        lines.append(f"with stored latents   {told} (apart: this is no axiom)")
    lines.append(f"time                  {result['seconds_per_image']:.4f} seconds an image")
    return "\n".join([*lines, "", *_matrix(result["effectiveness"])])


def _share(found: dict) -> str:
    return str(evaluation.Share(found["right"], found["total"]))


def _matrix(found: dict) -> list[str]:
    """Percent read as the target, a row a source, a column a target."""
    columns = range(len(found["matrix"]))
    lines = ["read as the target, %: from row to column", "    " + "".join(f"{k:>5}" for k in columns)]
    for k, row in enumerate(found["matrix"]):
        lines.append(f"{k:>4}" + "".join(f"{'–' if v is None else f'{100 * v:.0f}':>5}" for v in row))
    return lines
