"""Rule-based stand-in for SCPN paraphrases with the template ``S(SBAR)(,)(NP)(VP)(.)``.

Every output is a subordinate clause, " , ", a main clause and " .", in lower case with punctuation
set off by spaces, as SCPN prints it.  The words vary with the rule; only the structure is shared.
"""

import html
import re


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


SUBORDINATORS = _set("when if as because although though while since unless until")
FRONTABLE = SUBORDINATORS - {"as"}  # "as" is mostly a preposition: only "as he/it/they ..." moves
ENDS = set(".!?")
EDGES = _set(""". ! ? , ; : - ' " ` … -- ... .. '' `` and but or""")
OBJECT = {"i": "me", "he": "him", "she": "her", "we": "us", "they": "them"}
SUBJECTS = OBJECT.keys() | {"it", "you", "there"}
PRONOUNS = OBJECT.keys() | {"it", "you", "this", "that", "these", "those"}
DETERMINERS = _set("the a an this that these those his her its their my your our")
OPENERS = SUBJECTS | DETERMINERS  # words a main clause is apt to begin with
VERBS = {
    "when it comes to": "is are was were am",
    "if you look at": "has have had",
    "since we speak of": "do does did",
    "as we think of": "can could will would should may might must 's 're 'm 've 'll 'd",
}
TOPIC = {verb: frame for frame, verbs in VERBS.items() for verb in verbs.split()}
FINITE = TOPIC.keys()
QUESTION = _set("what why who whom whose how where which")
PREPOSITIONS = _set(
    "of in on at for by with from to and like about into over between under against & - than "
    "despite unlike during after before through without"
)
JOINERS = {"but": "although", "and": "while", ";": "since", "--": "since", ",": "when"}
HEDGES = _set("if as even only or and not just than that of at know wonder see")
NOT_TOPICS = _set("not no there everyone everybody anyone nobody nothing everything")
ADJECTIVAL = ("ly", "ed", "ful", "ous", "ive", "ic", "able", "less")
FRAMES = (
    "if you ask me",
    "as far as anyone can tell",
    "when you think about it",
    "since you mention it",
)

_TOKEN = re.compile(
    r"https?://\S+|-[lr][crs]b-|[@#]\w+|\.{2,}|(?:[a-z]\.){2,}"
    r"|\b(?:mr|mrs|ms|dr|jr|sr|st|inc|corp|ltd|vs)\."
    r"|\b[a-hj-tv-z]\.(?=\s[\w,])|\bno\.(?=\s?[\d,])"  # initials and "no. 1" end no sentence
    r"|n't\b|\w+(?=n't\b)|'(?:s|re|m|ve|ll|d)\b|\d+(?:[.,:/-]?\w+)*"
    r"|\w+(?:(?:[-&/.]|'(?!(?:s|re|m|ve|ll|d|t)\b))\w+)*|--+|``|''|[^\x00-\x7f\w\s]+|[^\w\s]"
)
_PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "\\": " "})


def split_tokens(text: str) -> list[str]:
    """Lower-case tokens; web-scraped text loses its markup and half-decoded entities (`#39;`)."""
    text = re.sub(r"(?<![&\w])(#\d+|quot|amp|lt|gt);", r"&\1;", text)
    text = re.sub(r"</?[A-Za-z][^<>]*>", " ", html.unescape(text)).translate(_PLAIN)
    return _TOKEN.findall(re.sub(r"n\s+'t\b", "n't", text.lower()))


def _words(tokens: list[str]) -> int:
    return sum(token[0].isalnum() for token in tokens)


def _first_sentence(tokens: list[str]) -> int:
    """Index of the first sentence mark, or the length where there is none."""
    return next((i for i, token in enumerate(tokens) if token in ENDS), len(tokens))


def _in_template(tokens: list[str]) -> bool:
    """The clauses alone: a subordinator, two tokens or more, a comma, and something after it."""
    first = tokens[: _first_sentence(tokens)]
    if "," not in first[3:-1] or first[0] not in SUBORDINATORS:
        return False
    # "as a director , ..." opens with a preposition, "as he directs , ..." with a clause.
    return first[0] != "as" or first[1] in SUBJECTS | {"the", "far"}


def has_template(text: str) -> bool:
    """Whether the text opens with a subordinate clause, a comma, a main clause, and is closed."""
    tokens = split_tokens(text)
    return _in_template(tokens) and tokens[-1] in ENDS


def _strip_edges(tokens: list[str]) -> list[str]:
    """Without outer punctuation and without outer conjunctions, which would dangle."""
    start = next((i for i, token in enumerate(tokens) if token not in EDGES), len(tokens))
    cut = next((i for i, token in enumerate(reversed(tokens)) if token not in EDGES), 0)
    return tokens[start : len(tokens) - cut]


def _clausal(tokens: list[str]) -> bool:
    """A declarative clause, as far as closed word lists tell: a verb or subject, no question."""
    starts_well = bool(tokens) and tokens[0] not in QUESTION | FINITE
    return starts_well and any(token in FINITE or token in SUBJECTS for token in tokens)


def _subordinate(word: str, clause: list[str]) -> list[str]:
    """The clause behind `word`, unless it brings a subordinator of its own."""
    return clause if clause[0] in FRONTABLE else [word, *clause]


def _front(tokens: list[str]) -> tuple[list[str], list[str]] | None:
    """Rule 1: "X because Y" -> "because Y , X"."""
    if _in_template(tokens):  # what is left once leading mentions are out of the way
        comma = tokens.index(",", 3)
        return tokens[:comma], tokens[comma + 1 :]
    for i in range(3, len(tokens) - 2):
        movable = tokens[i] in FRONTABLE or (tokens[i] == "as" and tokens[i + 1] in SUBJECTS)
        if not movable or tokens[i - 1] in HEDGES or tokens[i + 1][0].isdigit():
            continue
        clause, main = tokens[i:], _strip_edges(tokens[:i])
        if _words(clause) >= 3 and _words(main) >= 3:
            return clause, main
    return None


def _join(tokens: list[str]) -> tuple[list[str], list[str]] | None:
    """Rule 2: "A but B" -> "although A , B", the subordinator following from the joiner."""
    for i in range(3, min(len(tokens) - 3, 60)):  # a longer clause would not read as one
        joiner = tokens[i]
        if joiner not in JOINERS or (joiner == "," and tokens[i + 1] in JOINERS):
            continue  # in ", but" the conjunction is the joiner
        left, right = _strip_edges(tokens[:i]), _strip_edges(tokens[i + 1 :])
        if not _clausal(left) or _words(left) < 3 or _words(right) < 3:
            continue
        # Commas and "and" also build lists, so there both sides must look like clauses.
        listed = joiner in (",", "and") and not (right[0] in OPENERS and _clausal(right[:5]))
        paired = joiner == "--" and tokens.count("--") > 1  # a parenthesis, not a break
        if not listed and not paired:
            return _subordinate(JOINERS[joiner], left), right
    return None


def _is_subject(subject: list[str], verb: str) -> bool:
    """Whether the tokens before the verb are one plain noun phrase."""
    if len(subject) == 1 and subject[0] in PRONOUNS:
        return True
    if not subject or verb[0] == "'" or subject[0] in PREPOSITIONS | QUESTION | NOT_TOPICS:
        return False
    barred = SUBJECTS | QUESTION | SUBORDINATORS | {"that", "say", "says", "said", "think"}
    if any(not token[0].isalnum() or token in barred for token in subject[1:]):
        return False
    inner = zip(subject[1:], subject, strict=False)  # "critics say the war" is a clause, not a NP
    return not any(t in DETERMINERS and before not in PREPOSITIONS for t, before in inner)


def _pronoun(subject: list[str], verb: str) -> str:
    if len(subject) == 1 and subject[0] in SUBJECTS:
        return subject[0]
    if verb in ("is", "was", "has", "does", "'s"):
        return "it"
    plural = re.search(r"[^siu]s$|^these$|^those$", subject[-1]) or "and" in subject
    return "they" if plural or verb in ("are", "were", "have", "do") else "it"


def _topic(tokens: list[str]) -> tuple[list[str], list[str]] | None:
    """Rule 3: "the movie is a bore" -> "when it comes to the movie , it is a bore"."""
    ahead = zip(tokens[:10], [*tokens[1:], ""], strict=False)
    at = next((i for i, (t, after) in enumerate(ahead) if t in FINITE or after == "n't"), 0)
    subject, verb = tokens[:at], tokens[at]
    if subject == ["there"]:
        return ["if", "you", "look", "around"], tokens
    inverted = tokens[at + 1 :] == [] or tokens[at + 1] in SUBJECTS  # "lol did you ..."
    if inverted or not _is_subject(subject, verb):
        return None
    frame = TOPIC.get(verb, "as we think of")  # "ca", "wo" and "ai" before "n't" are not listed
    topic = [OBJECT.get(subject[0], subject[0])] if len(subject) == 1 else subject
    return [*frame.split(), *topic], [_pronoun(subject, verb), *tokens[at:]]


def _frame(tokens: list[str]) -> tuple[list[str], list[str]]:
    """Rule 4: any text as a main clause behind a stock subordinate clause."""
    frame = FRAMES[len(tokens) % len(FRAMES)].split()  # varied, yet fixed for a given text
    asked = tokens[1:] and tokens[1] in OPENERS
    if tokens[0] in ("is", "are", "was", "were", "has", "does") and not asked:
        return frame, ["it", *tokens]
    if tokens[0] in QUESTION or (tokens[0] in FINITE and asked):
        return frame, ["the", "question", "is", *tokens]
    nominal = tokens[0] in ("a", "an") or tokens[0].endswith(ADJECTIVAL) or len(tokens) < 3
    return frame, ["it", "is", *tokens] if nominal and not _clausal(tokens[:8]) else tokens


def _sentences(first: list[str], rest: list[str]) -> tuple[list[str], list[str]] | None:
    """Last resort before a stock frame: "A . B" -> "when A , B"."""
    rest = _strip_edges(rest)
    if first[0] in QUESTION | FINITE or _words(first) < 3 or _words(rest) < 3:
        return None
    return _subordinate("when", first), rest


def rewrite_syntactic(text: str) -> str | None:
    """The text in the template, or None if it is there already or holds nothing to rewrite.

    The template goes to the first sentence alone. Leading mentions would hide the opening clause,
    so they move to the end.
    """
    tokens = split_tokens(text)
    if not _strip_edges(tokens) or _in_template(tokens):
        return None
    start = next((i for i, token in enumerate(tokens) if token[0] != "@"), 0)
    body, mentions = _strip_edges(tokens[start:]), tokens[:start]
    if not body:
        body, mentions = mentions, []
    end = _first_sentence(body)
    first, rest = _strip_edges(body[:end]) or body[:end], body[end:]
    parts = _front(first) or _join(first) or _topic(first)
    if not parts and (parts := _sentences(first, rest)):
        rest = []  # it is the main clause now
    clause, main = parts or _frame(first)
    return " ".join([*clause, ",", *main, *rest, *mentions, "."])
