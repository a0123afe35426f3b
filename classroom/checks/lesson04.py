"""Exercises of lesson 04, sampling: the estimate of x_0 from the score, and one DDIM step."""

from collections.abc import Callable
from math import sqrt

from classroom.checks.exercise import Exercise, variants
from classroom.checks.networks import image


def _sigma(abar: float, abar_prev: float, eta: float) -> float:
    return eta * sqrt((1 - abar_prev) / (1 - abar)) * sqrt(1 - abar / abar_prev)


def _step(factors: Callable, sigma: Callable = _sigma, fix: Callable = lambda x_t, x_0: x_0) -> Callable:
    """One step (Song et al. 2021, eqs. 12 and 16): factors(abar, abar_prev, sigma), as in _right."""

    def formula(x_t, eps, abar, abar_prev, eta, noise):
        eps_in, x_0_in, of_x_0, of_eps, of_noise = factors(abar, abar_prev, sigma(abar, abar_prev, eta))
        return of_x_0 * fix(x_t, (x_t - eps_in * eps) / x_0_in) + of_eps * eps + of_noise * noise

    return formula


def _right(a: float, p: float, s: float) -> tuple[float, ...]:
    """What eps and x_0 are multiplied by in x_t, and in the result x_0, eps and noise."""
    return sqrt(1 - a), sqrt(a), sqrt(p), sqrt(1 - p - s * s), s


LAST = "Noise is added in the last step: at abar_prev = 1 sigma must be 0 and the result is x̂_0."
X0_FROM_SCORE = Exercise(
    heading="04.1 From the score to the image (5 min)",
    signature="x0_from_score(x_t [B, C, H, W], score [B, C, H, W], abar) -> [B, C, H, W]",
    question="You know how to get x̂_0 from x_t and eps. How do you get eps from the score?",
    formula="x̂_0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar) and score = -eps / sqrt(1 - abar): put the "
    "second into the first.",
    blank="return (x_t + (____) * score) / ____",
    praise="The score tells where the clean image lies: this is Tweedie's formula.",
    cases=((0.3,), (0.85,)),
    given=lambda abar: (image(1), image(2, 1 / sqrt(1 - abar)), abar),
    right=lambda x, s, a: (x + (1 - a) * s) / sqrt(a),
    wrong=variants(
        "1 - abar stands before the score without a square root: (1 - abar) · score.",
        lambda x, s, a: (x + sqrt(1 - a) * s) / sqrt(a),
        "The score is used as if it were eps: eps = -sqrt(1 - abar) · score.",
        lambda x, s, a: (x - sqrt(1 - a) * s) / sqrt(a),
        "The division by sqrt(abar) is missing: x_t holds x_0 made smaller by that factor.",
        lambda x, s, a: x + (1 - a) * s,
        "The division is by abar: x_0 was multiplied by sqrt(abar), so divide by the square root.",
        lambda x, s, a: (x + (1 - a) * s) / a,
    ),
)
DDIM_STEP = Exercise(
    heading="04.2 One step of DDIM, with eta (15 min)",
    signature="ddim_step(x_t [B, C, H, W], eps, abar, abar_prev, eta, noise) -> [B, C, H, W]",
    question="The step ends at noise level 1 - abar_prev. Part of that noise is the old eps, part is new: "
    "how must their variances add up?",
    formula="sigma = eta sqrt((1 - abar_prev) / (1 - abar)) sqrt(1 - abar / abar_prev), and x_prev = "
    "sqrt(abar_prev) x̂_0 + sqrt(1 - abar_prev - sigma²) eps + sigma noise.",
    blank="return math.sqrt(abar_prev) * ____ + math.sqrt(1 - abar_prev - ____) * eps + ____ * noise",
    praise="One formula for DDIM and DDPM: eta says how much of the noise is drawn anew.",
    # No noise, some, all, and the last step without and with eta.
    cases=((0.3, 0.6, 0.0), (0.3, 0.6, 0.4), (0.5, 0.7, 1.0), (0.9, 1.0, 0.0), (0.9, 1.0, 1.0)),
    given=lambda abar, abar_prev, eta: (image(3, 1.5), image(4), abar, abar_prev, eta, image(5)),
    right=_step(_right),
    limits={3: LAST, 4: LAST},
    wrong=variants(
        "sigma² is missing under the root before eps: without it the step ends with too much noise.",
        _step(lambda a, p, s: (sqrt(1 - a), sqrt(a), sqrt(p), sqrt(1 - p), s)),
        "sigma is there and eta is not: multiply sigma by eta, or the step is random at eta = 0 too.",
        _step(_right, lambda a, p, eta: _sigma(a, p, 1.0)),
        "sqrt(abar_prev) multiplies x_t: it must multiply the estimate x̂_0.",
        _step(_right, fix=lambda x_t, x_0: x_t),
        "A square root is missing: each abar and each 1 - abar that multiplies an image needs one.",
        _step(lambda a, p, s: (1 - a, sqrt(a), sqrt(p), sqrt(1 - p - s * s), s)),
        _step(lambda a, p, s: (sqrt(1 - a), a, sqrt(p), sqrt(1 - p - s * s), s)),
        "The estimate is clipped to [-1, 1]: leave it as it is in this exercise.",
        _step(_right, fix=lambda x_t, x_0: x_0.clamp(-1, 1)),
        "sigma is another: it is eta times two roots, one of them of (1 - abar_prev) / (1 - abar).",
        _step(_right, lambda a, p, eta: eta * sqrt(1 - a / p)),
    ),
)
EXERCISES = (X0_FROM_SCORE, DDIM_STEP)
