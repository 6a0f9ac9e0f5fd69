"""The prompts: a few sorted tickets, then the one in question. Raw text rather than a chat, because a
label should be the very next token."""

CATEGORIES = ("billing", "bug", "account", "shipping")

BLANK = "N/A"
"""A ticket that says nothing."""

# One ticket of each category in turn, with what is wrong.
_EXAMPLES = (
    ("billing", "You took the money twice for one invoice.", "a payment was taken twice"),
    ("bug", "The page freezes when I press save.", "saving makes the page freeze"),
    ("account", "I can't sign in, my password is refused.", "the password is not accepted"),
    ("shipping", "The courier lost my parcel.", "a parcel was lost on its way"),
    ("billing", "I want my money back for last month's payment.", "a payment should be paid back"),
    ("bug", "I get an error message when I open a file.", "opening a file gives an error"),
    ("account", "Please change my user name and email.", "the name and email should change"),
    ("shipping", "My order has not been delivered yet.", "an order has not arrived"),
    ("billing", "Why is my bill higher than the price you showed me?", "the bill is above the price"),
    ("bug", "Nothing happens when I click the button since the update.", "a button does nothing"),
    ("account", "I want to close my account.", "the account should be closed"),
    ("shipping", "Please send it to another address.", "the address of an order should change"),
)


def category(ticket: str, order: int) -> str:
    """Asks for the category; the answer starts with a space and the label.

    Each order of the examples lets another category come last.
    """
    text = f"Support tickets and their departments ({', '.join(CATEGORIES)}).\n\n"
    for start in range(0, len(_EXAMPLES), len(CATEGORIES)):
        group = _EXAMPLES[start : start + len(CATEGORIES)]
        for label, example, _ in group[order:] + group[:order]:
            text += f"Ticket: {example}\nDepartment: {label}\n\n"
    return text + f"Ticket: {ticket}\nDepartment:"


def problem(ticket: str, label: str) -> str:
    """Asks what is wrong, in a few words."""
    text = "Support tickets, their departments and what is wrong.\n\n"
    for example_label, example, wrong in _EXAMPLES[: len(CATEGORIES)]:
        text += f"Ticket: {example}\nDepartment: {example_label}\nProblem: {wrong}\n\n"
    return text + f"Ticket: {ticket}\nDepartment: {label}\nProblem:"
