"""Predictions: the learner guesses first, and only then sees what happens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from classroom.checks import store
from classroom.checks.judging import Page, box


@dataclass(frozen=True)
class Question:
    """A question, its choices, the answer among them (None: told later), why, and where the answer comes."""

    question: str
    choices: tuple[str, ...]
    answer: str | None = None
    why: str = ""
    then: str = "Now run the next cell."

    def __post_init__(self) -> None:
        if len(self.choices) < 2:
            raise ValueError(f"A prediction needs at least two choices, got {list(self.choices)}.")
        if self.answer is not None and self.answer not in self.choices:
            raise ValueError(f"The answer {self.answer!r} is not one of the choices {list(self.choices)}.")


def _asked(*parts: str) -> dict[str, Question]:
    """By four: number, question, choices with bars between them and a star before the answer, and why."""
    asked = {}
    for number, question, choices, why in zip(*(parts[i::4] for i in range(4)), strict=True):
        some = choices.split(" | ")
        answer = next((one[1:] for one in some if one.startswith("*")), None)
        asked[number] = Question(question, tuple(one.removeprefix("*") for one in some), answer, why)
    return asked


MEAN, ROOT = "the log-probabilities are averaged, not summed", "the factor sqrt(1 - abar) is left out"
ONE_MORE = "the scale counts one too many"
PREDICTIONS = _asked(
    "00.p1",
    "You turn the guidance scale up, from 1 to 8. What happens to the digits?",
    "They become clearer, the more the better | *They become clearer at first, then all alike and harsh | "
    "They become more varied | Nothing: the scale changes the speed only",
    "From a scale of about 1.5 on nearly all are read right. Their variety falls from the start, and the "
    "distance to real images grows from 1 on.",
    "01.p1",
    "After half of the 1000 steps of the linear schedule: how much of the picture's contrast is left?",
    "more than half | about half | *about a quarter | less than a twentieth",
    "abar is 0.08 there, and the picture is multiplied by its square root, 0.28: the betas grow, but a "
    "product of hundreds of factors below 1 falls fast.",
    "01.p2",
    "T = 100 steps with the betas of T = 1000, from 0.0001 to 0.02: what is the last state x_T?",
    "pure noise | *a noisy picture in which the digit can be read | the clean picture",
    "A tenth of the factors, so the product stops at abar = 0.36: 60% of the contrast is left.",
    "02.p1",
    "A picture carries the noise of t = 300, and the network is told t = 50. What will it do?",
    "the same as if told the truth: the picture shows how noisy it is | *leave much of the noise in | take "
    "the digit away with the noise",
    "Told t = 50 it looks for a trace of noise in a clear picture, and the estimate keeps its specks.",
    "02.p2",
    "You cut the skips of the trained network. What does its estimate of the clean picture look like?",
    "hardly changed | a blurred digit without noise | *a digit that is still under all its noise",
    "The network must say the noise of every single pixel, and the 7 × 7 positions in the middle cannot "
    "carry that: it comes through the skips.",
    "02.p3",
    "Train the network without one of its parts, equally long. Which part do its drawings miss least?",
    "skips | *attention | being told t",
    "On 28 × 28 pixels the convolutions reach everywhere without it. Larger pictures need it more.",
    "03.p1",
    "A network that has learned nothing and answers 0 everywhere: what is its mean squared error?",
    "0 | about 0.5 | *about 1 | it depends on the image",
    "eps has variance 1 in every pixel, so guessing 0 costs 1: every loss below 1 has been learned.",
    "03.p2",
    "At which timesteps is the error of a trained network largest?",
    "*near t = 0, where the image is almost clean | in the middle | near t = T-1, where all is noise",
    "There the noise is a trace that hides in the image; near T-1 the input is almost the noise itself.",
    "04.p1",
    "The network is told 7 and sees a picture that is nearly all noise (t = 800). What is its guess x̂_0?",
    "a finished seven, sharp | *a blurred average of many sevens | noise",
    "Many sevens fit so much noise, and the best guess in squared error is their average.",
    "04.p2",
    "You run DDIM (eta = 0) twice from the same x_T. The two images are …",
    "*identical | similar | unrelated",
    "With eta = 0 no noise is drawn on the way: x_T alone decides the image.",
    "04.p3",
    "The same again with eta = 1 and fresh noise in every step. The two images are …",
    "identical | equal in everything but details | *two different drawings",
    "Each step replaces part of the old noise by new, and after many steps little of x_T is left.",
    "05.p1",
    "A classifier reads 99% of clean digits. At t = 300 the eye still reads most. The classifier reads …",
    "about 95% | about 75% | *less than half",
    "It has never seen noise, and takes it for strokes.",
    "05.p2",
    "A drawing goes from t = 999 down to 0. When is it decided which digit it will be?",
    "at once, above t = 900 | *between t = 600 and 300 | late, below t = 200",
    "Large shapes come first, and they settle which digit it is, while the eye sees nothing but noise.",
    "06.p1",
    "The clean classifier reads 99% of clean digits. It guides all 100 cells, at its best scale. How many "
    "does the evaluator read as the digit that was asked for?",
    "more than 90 | 70 to 90 | *fewer than 70",
    "A guide that takes noise for strokes pushes towards strokes that are none.",
    "06.p2",
    "You turn s up, from 0.5 to 12, with the noise-aware guide. What happens to the feature FID, the "
    "distance to real images?",
    "it falls all the way | *it falls, then rises | it rises all the way",
    "At first the wish is hardly heard and many drawings are no clear digit; too strong a wish makes all "
    "drawings of a digit alike.",
    "07.p1",
    "Told the digit and told nothing: at which timesteps do the network's two answers differ most?",
    "near pure noise, above t = 800 | *in the middle, between 600 and 400 | near the end, below 200",
    "In pure noise a label changes little in the noise that is seen; near the end the image itself shows "
    "which digit it is.",
    "07.p2",
    "You guide between t = 600 and 200 only, at the same w. Compared with guiding all the way …",
    "far fewer are read right | *nearly as many are read right, and the images are nearer to real ones | "
    "nothing changes",
    "Outside the interval the label adds little, and a push that adds little to the wish still costs "
    "variety.",
    "08.p1",
    "One noise, drawn as each of the ten digits. What do the ten drawings have in common?",
    "nothing | *roughly the thickness of the stroke | all pixels but a few",
    "The label decides which digit it is. Much of what it leaves open is taken from the noise.",
    "08.p2",
    "A real 7 becomes a 3: once from the noise found by abduction, once from a random noise. How far from "
    "the 7 are the two, pixel by pixel?",
    "both as far: a 3 is a 3 | *the abducted one is about half as far | the abducted one is at a tenth of "
    "the distance",
    "Other strokes need other pixels: the distance cannot vanish. Place, slant and thickness often stay.",
    "09.p1",
    "Someone makes counterfactuals that the evaluator always reads as the target: 100% effective. These "
    "counterfactuals are …",
    "good | probably good | *good or worthless: the number alone does not say",
    "One stored 8 for every wish for an 8 has 100%, and nothing of the picture that was asked about.",
    "09.p2",
    '"Make this 3 a 3" leaves a small error. You ask ten times in a row. The error is then …',
    "the same as after one | *about four times as large | ten times as large",
    "Every pass adds its own small change, and they do not all point the same way.",
    "10.p1",
    "You double the number of steps, and DDIM's error halves. The error of the solver with a memory …",
    "halves, too | *falls to a quarter | falls to a tenth",
    "Its error goes with the square of the step's length: it is of second order.",
    "10.p2",
    "DDIM with 50 steps follows the exact curve more closely than with 10. Are its images nearer to real "
    "ones, too (feature FID)?",
    "yes, clearly | yes, a little | *no: their FID is not lower",
    "The exact curve is the network's, and only as good as the network, which is small. A solver's error and "
    "the FID are two measures.",
    "11.p1",
    "Three equal small networks are trained equally long: under the linear, the cosine and the sigmoid "
    "schedule. You look at their training losses. Then …",
    "the one with the lowest loss draws best | *the losses cannot be compared: each schedule asks other "
    "questions | all three losses are equal",
    "The noise in a nearly pure noise is easy to tell, that in a nearly clean image is hard. How many of "
    "each are asked is the schedule's choice, so a low loss may come from easy questions: compare the "
    "drawings.",
    "11.p2",
    "You turn w up on CIFAR-10, from 1 to 5, with our small network. What happens to accuracy and feature "
    "FID?",
    "accuracy rises, and the FID improves all the way | accuracy rises, and the FID gets worse from the "
    "start, as for digits | *accuracy rises; the FID first improves, then gets worse",
    "Guidance first mends what a small network leaves vague. Beyond that it overdoes what is typical of a "
    "class, and real images are not so.",
    "12.p1",
    "You draw the same noises unguided and guided to Smiling. Of the other 39 attributes, which reading "
    "moves most?",
    "none of them: only Smiling was asked for | *Mouth slightly open and High cheekbones | Young and "
    "Attractive",
    "They are part of a smile, and in the photographs they go with it more than anything else does. The "
    "classifier learned what goes with a smile, and its gradient pulls at all of it.",
    "12.p2",
    "You raise the scale for counterfactuals of real faces, at one depth. What happens?",
    "more faces flip, and the other attributes stay as they were | *more faces flip, and the other "
    "attributes drift more, too | beyond a small scale fewer faces flip again",
    "The pull goes on past the flip, along all that the classifier takes for a part of it. Take the "
    "smallest scale that flips enough.",
    "13.p1",
    "Each pair of a point and a noise is joined by a straight line. A perfect network knows the velocity at "
    "each place. Along which paths does it lead the points from noise to data?",
    "along straight lines, as it was taught | *along lines that bend | along the lines of the pairs that it "
    "was taught",
    "The lines of many pairs cross at one place, and the network can give one answer there: their mean. As "
    "the point moves, other pairs fit it, and the mean turns.",
    "13.p2",
    "Ten steps of DDIM draw a digit. Instead you take one single step from pure noise, at w = 2. How many of "
    "100 such pictures does the evaluator read as asked?",
    "about ten, as by chance | about half | *nearly all",
    "A blurred mean of all sevens is read as a seven. The share read right cannot tell one step from ten: "
    "the distance to real pictures (FID) and the variety can.",
    "14.p1",
    "What is wrong in program A?",
    f"{MEAN} | {ROOT} | *{ONE_MORE}",
    "At s = 0 nothing may be added, and the 3 is drawn alone: each picture is that of the next larger s.",
    "14.p2",
    "What is wrong in program B?",
    f"*{MEAN} | {ROOT} | {ONE_MORE}",
    "Nothing happens at any scale: with 300 dots in the batch the push is 300 times too weak.",
    "14.p3",
    "What is wrong in program C?",
    f"{MEAN} | *{ROOT} | {ONE_MORE}",
    "At s = 0 it is right, and at s = 1 the stroke is cut off already. The missing factor is small near the "
    "picture, so there the push is far too strong.",
)
PREDICTIONS["00.p1"] = replace(
    PREDICTIONS["00.p1"], then="Lesson 07 measures it and comes back to your guess."
)


class Prediction:
    """What `predict` shows: the choices as buttons, or as text where no notebook is alive."""

    def __init__(self, number: str, asked: Question) -> None:
        self.number, self.asked = number, asked

    def __repr__(self) -> str:
        choices = "\n".join(f"  ( ) {choice}" for choice in self.asked.choices)
        return f"Your guess, {self.number}: {self.asked.question}\n{choices}"

    def _repr_html_(self) -> str:
        choices = "".join(f"<br>○ {escape(choice)}" for choice in self.asked.choices)
        return box(f"Your guess, {self.number}", escape(self.asked.question) + choices)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        texts = {"text/plain": repr(self), "text/html": self._repr_html_()}
        return {**self.widget()._repr_mimebundle_(), **texts}

    def widget(self) -> Any:
        """The live choice; nothing is chosen before the learner has chosen."""
        import ipywidgets

        choices = list(self.asked.choices)
        kept = guess(self.number)
        buttons = ipywidgets.RadioButtons(
            options=choices,
            value=kept if kept in choices else None,
            description="Your guess:",
            layout=ipywidgets.Layout(width="max-content"),
        )
        note = ipywidgets.HTML("")

        def keep(change: dict) -> None:
            if change["new"] is not None:
                store.put("guesses", self.number, change["new"])
                note.value = f"Kept. {self.asked.then}"

        buttons.observe(keep, names="value")
        return ipywidgets.VBox([ipywidgets.HTML(f"<b>{escape(self.asked.question)}</b>"), buttons, note])


def predict(
    number: str,
    question: str | Sequence[str] | None = None,
    choices: Sequence[str] | None = None,
    answer: str | None = None,
    why: str = "",
) -> Prediction:
    """Ask for a guess; it is kept as soon as one is chosen.

    With a number alone, "NN.pk", the question comes from PREDICTIONS; predict(number, choices) will do, too.

    Raises:
        ValueError: for an unknown number without choices, or an answer that is not one of the choices.
    """
    if choices is None and question is not None and not isinstance(question, str):
        question, choices = None, question
    if choices is not None:
        PREDICTIONS[number] = Question(question or "What do you expect?", tuple(choices), answer, why)
    return Prediction(number, _known(number))


def reveal(number: str) -> Page:
    """The learner's guess beside the answer, and why; a ValueError if nothing was asked under this number."""
    asked, guessed = _known(number), guess(number)
    lines = [f"You guessed: {guessed}." if guessed is not None else "You made no guess."]
    if asked.answer is None:
        lines.append("A later lesson measures it.")
    else:
        lines += [f"{'Right' if guessed == asked.answer else 'The answer'}: {asked.answer}.", asked.why]
    lines, head = list(filter(None, lines)), f"Prediction {number}"
    return Page(f"{head}: {' '.join(lines)}", box(head, "<br>".join(map(escape, lines))))


def guess(number: str) -> str | None:
    """What the learner chose, or None."""
    kept = store.section("guesses").get(number)
    return kept if isinstance(kept, str) else None


def _known(number: str) -> Question:
    if number not in PREDICTIONS:
        raise ValueError(f"There is no prediction {number!r}: known are {', '.join(sorted(PREDICTIONS))}.")
    return PREDICTIONS[number]
