"""The questions of this example: everyday things, three forms of question.

Things are split once, so that no held-out question is about a thing that the
training questions mention.
"""

FORMS = [
    "What is {thing}?",
    "Why do people use {thing}?",
    "How does {thing} work?",
]

TRAIN_THINGS = [
    "an umbrella", "a candle", "a bicycle", "a kettle", "a pillow", "a mirror", "a ladder", "a clock",
    "a refrigerator", "a pencil", "a towel", "a zipper", "a compass", "a whistle", "a hammer", "a lamp",
    "a backpack", "a thermometer", "a sponge", "a bell", "a calendar", "a fork", "a blanket", "a bridge",
    "a camera", "a door lock", "a fan", "a map", "a microscope", "a radio", "a raincoat", "a rope",
    "a sail", "a shovel", "a stapler", "a telescope", "a toaster", "a wheel", "a window", "a bucket",
]

HELD_OUT_THINGS = [
    "a broom", "a battery", "a button", "a chair", "a comb", "a drum", "a glove", "a helmet",
    "a kite", "a magnet", "a needle", "an oven",
]


def questions(things):
    """Every form of question about every thing, thing by thing."""
    return [form.format(thing=thing) for thing in things for form in FORMS]


def train_questions():
    return questions(TRAIN_THINGS)


def held_out_questions():
    return questions(HELD_OUT_THINGS)
