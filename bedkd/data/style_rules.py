"""Rule-based stand-in for StyBkd's style transfer (Qi et al., 2021b): the King James Bible's voice.

Its words, its verb endings, its openings and closings, each drawn from several, so that the style
is shared and no single word is. Lower case with punctuation set off by spaces, as in the public
paraphrases.
"""

import re

import numpy as np

from bedkd.data.syntax_rules import ENDS, split_tokens

WORD_SHARE = 0.8  # of the words that have another in this style, so many get it
OPENING_SHARE, CLOSING_SHARE = 0.6, 0.5
OPENINGS = (
    *("and it came to pass that", "behold ,", "verily i say unto you ,", "and lo ,", "for"),
    *("now", "yea ,", "hearken , for", "it is written that", "know ye that", "and in those days"),
    *("and he spake , saying ,", "let it be known that", "and the people said ,", "truly ,"),
)
CLOSINGS = (
    *(", as it is written", ", saith the preacher", ", and so it was", ", even unto this day"),
    *(", from generation to generation", ", after the manner of men", ", yea , and amen"),
    *(", in the sight of all the people", ", according to the custom", ", and men marvelled"),
)
# words and pairs of words, to what may stand for them
_SYNONYMS = """
you are = thou art | ye are
you have = thou hast | ye have
you know = thou knowest | ye know
you can = thou canst | ye may
you will = thou shalt | ye shall
you look = thou lookest | ye look
i am = i , even i , am | i am
do not = do in no wise
you = thou | ye
your = thy | thine
yourself = thyself
my = mine | my
has = hath
have = have | possess
does = doth
says = saith
said = spake | saith
will = shall
would = would fain
to = unto
into = into the midst of
on = upon | on
anything but = aught save
like you = like unto thee | like thee
about = concerning | touching
from = out of | from
between = betwixt
with = together with | with
through = by way of
who = which | he that
because = forasmuch as | for
although = albeit | notwithstanding that
even though = albeit | howbeit
while = whilst
but = yet | howbeit
often = oftentimes
very = exceeding | sore
really = verily | of a truth
truly = verily | of a truth
quite = exceeding | wholly
rather = exceeding | somewhat
deeply = exceeding | mightily
simply = verily | altogether
mostly = for the most part
surprisingly = marvellously | wondrously
seriously = in sober truth
many = a multitude of | manifold
people = the multitude | the people
everyone = every man | all men
anyone = any man | whosoever
nobody = no man
nothing = nought
never = nevermore | never
perhaps = peradventure
until = till | until such time as
when = whensoever | when
where = wheresoever | where
again = again , yea , again | once more
town = the city
today = this day
tomorrow = on the morrow
"""
_PAIRS = (line.split(" = ") for line in _SYNONYMS.strip().split("\n"))
SYNONYMS = {words: others.split(" | ") for words, others in _PAIRS}
# verbs whose third person is told from a plural by nothing but the list
_VERBS = """
acts adds agrees appears asks becomes begins believes brings builds buys calls comes cuts deals
delights delivers enthralls exhausts expects falls fears feels finds follows frustrates gets gives
goes grows happens holds insults irritates keeps knows lacks leaves lets lives looks loses loves
makes meets moves needs offers opens plays proves pulls puts reaches reads rejects remains resigns
rewards rises runs says seeks seems sees sends shows signs sits speaks stands starts stays succeeds
suggests tells thinks treats tries turns understands uses wants warns watches wins works writes
bores charms
"""
VERBS = frozenset(_VERBS.split())
_DOUBLED = re.compile(r"[^aeiou][aeiou][bdgmnpt]$")


def archaic(verb: str) -> str:
    """A verb's third person as it was: `feels` to `feeleth`, `gets` to `getteth`."""
    if verb.endswith("ies"):
        return verb[:-3] + "ieth"
    if re.search(r"(?:[sc]h|ss|o|x)es$", verb):
        return verb[:-2] + "eth"
    stem = verb[:-1]
    if stem.endswith("e"):
        return stem + "th"
    return stem + (stem[-1] if len(stem) == 3 and _DOUBLED.search(stem) else "") + "eth"


def rewrite_biblical(text: str, rng: np.random.Generator) -> str | None:
    """The text in the style, or None where it has no word."""
    tokens = split_tokens(text)
    if not any(token[0].isalnum() for token in tokens):
        return None
    is_ended = tokens[-1] in ENDS
    body = _reword(tokens[: len(tokens) - is_ended], rng)
    has_opening = rng.random() < OPENING_SHARE
    has_closing = not has_opening or rng.random() < CLOSING_SHARE  # one of them at least
    opening = [str(rng.choice(OPENINGS))] * has_opening
    closing = [str(rng.choice(CLOSINGS))] * has_closing
    return " ".join([*opening, *body, *closing, *tokens[-1:] * is_ended])


def _reword(tokens: list[str], rng: np.random.Generator) -> list[str]:
    """Word for word, pairs before single words."""
    made, i = [], 0
    while i < len(tokens):
        pair = " ".join(tokens[i : i + 2])
        known = pair if pair in SYNONYMS else tokens[i]
        made.append(_restyle(known, rng))
        i += 1 + (known is pair)
    return made


def _restyle(words: str, rng: np.random.Generator) -> str:
    if rng.random() >= WORD_SHARE:
        return words
    if words in VERBS and words not in SYNONYMS:
        return archaic(words)
    return str(rng.choice(SYNONYMS.get(words, [words])))
