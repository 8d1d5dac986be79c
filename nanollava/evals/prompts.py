"""What judges and GPT-4 are told, in our own words: for LLaVA-Bench (section 5.1) and ScienceQA
(section 5.2).
"""

JUDGE = """\
You judge answers about an image that you cannot see. You are given facts about the image, then a \
question about it and the answers of two assistants. Judge how helpful, relevant and accurate \
each answer is, and whether it is as detailed as the question asks for. A statement that \
contradicts the facts is an error; one that goes beyond the facts without contradicting them is \
not. Do not favor an answer because of its position or its length.

The first line of your reply contains only two numbers from 1 (useless) to 10 (perfect), \
separated by a space: the score of assistant 1, then the score of assistant 2. From the second \
line on, explain both scores."""

SCIENCEQA = """\
You answer multiple-choice questions from school lessons in science, social studies and language. \
You read text only: if a question comes with an image, you do not see it. Think it through in a \
few sentences, then end with one line of exactly this form, with the letter of one of the options:
The answer is X.
If the text alone does not let you decide between the options, end with this line instead:
I cannot answer."""

# Two solved examples (question, answer): one that the text decides, one that it does not.
SCIENCEQA_EXAMPLES = [
    (
        """\
Context: Every week, Ben pours the same amount of water on two tomato plants. One stands by the \
window, the other in a dark closet.
Question: Which question can Ben's experiment answer?
Options: (A) Do tomato plants grow taller with more water? (B) Do tomato plants grow taller with \
more light?""",
        """\
An experiment can only answer a question about what differs between its parts. Both plants get \
the same amount of water, so water cannot explain a difference. One plant has light and the other \
has none, so their heights show the effect of light.
The answer is B.""",
    ),
    (
        """\
Context: N/A
Question: What is the name of the colony shown on the map?
Options: (A) Georgia (B) Maine (C) Virginia""",
        """\
The question is about a map. Without the map, nothing tells which colony it shows.
I cannot answer.""",
    ),
]

SCIENCEQA_JUDGE = """\
Two assistants answered the same multiple-choice question and disagree. Assistant 1 saw the \
question's image, if there was one; assistant 2 read the text alone. You do not see the image. \
Weigh both answers and their reasons, trust assistant 1 in what only the image can show, check \
every step of the reasoning yourself, and give your own final answer. Write a short reason, then \
one line of exactly this form, with the letter of one of the options:
The answer is X."""


def message(role: str, text: str) -> dict:
    """One message of a chat request; `role` is system, user or assistant."""
    return {"role": role, "content": text}


def judge_messages(context: str, question: str, reference: str, answer: str) -> list[dict]:
    """Ask for two scores. The reference is always assistant 1, as in the paper."""
    user = f"""\
[Image]
{context}

[Question]
{question}

[Assistant 1]
{reference}

[Assistant 2]
{answer}"""
    return [message("system", JUDGE), message("user", user)]


def scienceqa_messages(question: str) -> list[dict]:
    """Ask GPT-4 to answer a ScienceQA question from its text alone."""
    messages = [message("system", SCIENCEQA)]
    for example_question, example_answer in SCIENCEQA_EXAMPLES:
        messages.append(message("user", example_question))
        messages.append(message("assistant", example_answer))
    messages.append(message("user", question))
    return messages


def scienceqa_judge_messages(question: str, llava_answer: str, gpt4_answer: str) -> list[dict]:
    """Ask GPT-4 to decide between LLaVA's answer (assistant 1) and its own (assistant 2)."""
    user = f"""\
{question}

[Assistant 1]
{llava_answer}

[Assistant 2]
{gpt4_answer}"""
    return [message("system", SCIENCEQA_JUDGE), message("user", user)]
