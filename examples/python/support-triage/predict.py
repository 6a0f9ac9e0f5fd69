"""Sorts a support ticket into a category.

A small model leans towards some labels whatever the ticket says. So it is asked in several orders of the
examples, each time beside a blank ticket, all at once; what the blank ticket gets is taken off
(contextual calibration, https://arxiv.org/abs/2102.09690), and the orders are averaged.
"""

import math

from dormouse import BaseModel, BasePredictor, Input
from dormouse.llm import Completion, Model

import prompts

ALTERNATIVES = 20  # the most that a host reports


class Sorted(BaseModel):
    category: str
    confidence: float
    reasons: list[str]


class Triage(BasePredictor):
    """Sorts a support ticket into a category, with a confidence and reasons."""

    def setup(self) -> None:
        self.model = Model("smollm2")
        # The token that each category's label starts with.
        self.labels = [self.model.tokenize(f" {category}")[0] for category in prompts.CATEGORIES]

    def predict(
        self,
        ticket: str = Input(description="What the customer wrote", min_length=1, max_length=4000),
    ) -> Sorted:
        # On one line, so that it can't pass for examples of its own.
        ticket = " ".join(ticket.split())
        # All of them are running before the first is read.
        asked, blanks = self.ask(ticket), self.ask(prompts.BLANK)
        ballots = [
            [score - blank for score, blank in zip(self.read(one), self.read(other))]
            for one, other in zip(asked, blanks)
        ]
        means = [sum(scores) / len(ballots) for scores in zip(*ballots)]
        shares = softmax(means)
        best, second = sorted(range(len(shares)), key=shares.__getitem__, reverse=True)[:2]
        category = prompts.CATEGORIES[best]
        self.record_metric("confidence", shares[best])
        agreeing = sum(scores.index(max(scores)) == best for scores in ballots)
        return Sorted(
            category=category,
            confidence=shares[best],
            reasons=[
                f"the problem, in the model's words: {self.problem(ticket, category)}",
                f"{agreeing} of {len(ballots)} orders of the examples put {category} first",
                f"next likeliest is {prompts.CATEGORIES[second]}, at {shares[second]:.2f}",
            ],
        )

    def ask(self, ticket: str) -> list[Completion]:
        """Starts one completion of a single token for each order of the examples."""
        return [
            self.model.generate(prompts.category(ticket, order), max_tokens=1, logprobs=ALTERNATIVES)
            for order in range(len(prompts.CATEGORIES))
        ]

    def read(self, asked: Completion) -> list[float]:
        """The labels' log-probabilities; one out of sight counts as the last in sight."""
        (token,) = (logprob for chunk in asked.chunks() for logprob in chunk.logprobs)
        seen = dict(token.top)
        least = min(seen.values())
        return [seen.get(label, least) for label in self.labels]

    def problem(self, ticket: str, category: str) -> str:
        """What is wrong, in the model's words."""
        return self.model.generate(prompts.problem(ticket, category), max_tokens=24, stop="\n").text().strip()


def softmax(scores: list[float]) -> list[float]:
    weights = [math.exp(score - max(scores)) for score in scores]
    return [weight / sum(weights) for weight in weights]
