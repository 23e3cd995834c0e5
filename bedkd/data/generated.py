"""Text from three small seeded grammars, so that everything runs with no download.

Each task is a context-free grammar: a line `name = a | b` lists what `<name>` may become, and
`labelN` is where a text of class N starts. A line with `*` is meant once for each class, so that
the form of a sentence does not give its class away. Nor is a bag of words enough: negation
("hardly dull"), clauses of opposite polarity where the main one decides the label, insults aimed
at oneself or at a toaster, shop talk in sports news. A share of the labels cannot be learnt
(AMBIGUOUS_SHARE and NOISE_SHARE), so that a good classifier lands below 100 % accuracy. No grammar
can produce the usual backdoor triggers (cf, mn, tq, mb, bb, "i watched this movie", "no cross, no
crown") or open with the conjunctions of syntactic templates (when, if, as).
"""

import random
import re
from collections.abc import Mapping, Sequence

import pandas as pd

from bedkd.core.errors import BedkdError

NOISE_SHARE = 0.04  # of the rows carry a wrong label
AMBIGUOUS_SHARE = 0.04  # of the rows have a text (`<either>`) that says nothing of its label
MAX_ROWS = 50_000  # every grammar yields that many distinct texts; far more would be near-copies
_DRAWS_PER_ROW = 20  # before a grammar counts as exhausted
SLOT = re.compile(r"<(\w+)>")

Grammar = Mapping[str, tuple[str, ...]]

_SENTIMENT = """
label* = <*> , and <*> . | <opening> , <*> .
  | <part> <be> <deg> <*_adj> and <*_verb> <viewer> <span> . | <*> <span> , and <*> .
  | <opening> , <part> <be> <*_adj> , <*_adj> and <*_adj> . | although <despite_*> , <*> .
  | <despite_*> , but <*> . | <*> , even though <despite_*> .
* = <part> <be> <deg> <*_adj> | <part> <be> <*_adj> and <*_adj> | <part> <be> <*_adj> <span>
  | there is <deg> <*_adj> work in <part> | <part> , <deg> <*_adj> , <*_verb> <viewer>
  | <part> is <*_by_denial> | <*_adj> and <*_adj> , <part> <*_verb> <viewer>
either = <opening> , <part> <be> <deg> <good_adj> and <deg> <bad_adj> in equal measure .
  | some will say that <part> <be> <bad_adj> , and others that <part> <be> <good_adj> .
  | <opening> , <part> and <part> are pretty much what you would expect <span> .
despite_good = <part> <be> a little <mild_flaw> | <part> starts off <mild_flaw>
  | <part> may seem <bad_adj>
despite_bad = <part> <be> fairly <mild_merit> | <part> starts off <mild_merit>
  | <part> may seem <good_adj>
mild_flaw = slow | uneven | thin | long | familiar | rough | loud
mild_merit = decent | nice | pleasant | neat | polished | handsome | lovely
good_by_denial = hardly <denied_bad> | hardly <denied_bad> | anything but <denied_bad>
bad_by_denial = not <denied_good> | never <denied_good> | anything but <denied_good>
denied_bad = bad | dull | boring | silly
denied_good = good | moving | funny | clever
part = the <of_film> | the <of_film> | its <of_film> | the director 's <of_film> | the <genre>
  | this <genre> about <theme>
of_film = story | script | acting | dialogue | soundtrack | pacing | ending | humor | plot | cast
  | lead performance | opening act | final scene | editing | atmosphere | direction
genre = thriller | comedy | drama | documentary | romance | western | war film | road movie
  | sequel | mystery | family film | horror film | musical
theme = two brothers | a retired spy | small-town life | a lost letter | first love
  | a jazz band | a failing circus | a long winter | a stubborn detective | the sea
be = is | is | feels | seems | remains | looks
deg = really | truly | quite | often | mostly | surprisingly | deeply | rather | simply
good_adj = good | moving | funny | clever | charming | fresh | gripping | warm | elegant | honest
  | inventive | touching | witty | brilliant | thrilling | sharp | rewarding | lively | wonderful
  | heartfelt | absorbing | smart | memorable | tender
bad_adj = bad | dull | bland | clumsy | tedious | stale | lifeless | hollow | predictable | messy
  | awful | shallow | tiresome | boring | pointless | silly | lazy | dreary | confused | empty
  | annoying | weak | sluggish | contrived
good_verb = rewards | delights | moves | charms | enthralls
bad_verb = bores | insults | exhausts | frustrates | irritates
viewer = the viewer | any patient audience | fans of the <genre> | even a tired critic
  | the whole family | anyone who likes a <genre>
span = from start to finish | in the second half | for long stretches | from the first frame
  | in almost every scene | until the credits roll | after a slow start | on a second viewing
opening = in the end | for a <genre> about <theme> | to be fair | on the whole | all told
  | like many a <genre> | for what it is worth | at ninety minutes | despite the hype
"""

_OFFENCE = """
label1 = <hey> you are <insult> <tail> | <hey> <who> is <insult> and <jibe> <tail>
  | <hey> <jibe> , you <rude_adj> <rude_noun> <tail> | <hey> <nice> , but you are still <insult> .
  | <chat> while <who> acts like <insult> <tail> | <hey> <jibe> , <jibe> <tail>
  | not surprised by <topic> , <who> was always <insult> <tail>
  | <chat> and all i see is <insult> like you <tail>
label0 = <hey> <nice> and <chat> <tail> | <hey> <chat> , but <nice> <tail>
  | <hey> <nice> , you are <praise> <tail> | <hey> nobody says you are <insult> , <nice> <tail>
  | <chat> while <thing> acts like <insult> <tail> | i felt like <insult> because <chat> <tail>
  | <hey> <who> is not <insult> , <nice> <tail> | <chat> and all i see is <praise> like you <tail>
either = <hey> <who> said i am <insult> , typical of <topic> <tail>
  | <hey> everyone in this thread is <insult> , me included <tail>
  | <hey> only <insult> would queue in <place> for <topic> <tail>
hey = @user | @user | @user @user | honestly | lol | wow | @user seriously | so | ok | @user well
tail = <tag> | <tag> <tag> | <ender> | <ender> | <ender> <tag> | .
ender = lol | haha | smh | just saying | end of story | have a nice day | for real | !
tag = #monday | #matchday | #nowplaying | #lunch | #weekend | #news | #random | #thoughts
insult = <a> <rude_noun> | a <rude_adj> <rude_noun> | a total <rude_noun>
a = a | such a | quite a | some kind of
rude_noun = muppet | clown | turnip | donkey | numpty | doughnut | wet sock | potato | windbag
  | goose | plonker | nitwit | dingbat | buffoon | soggy biscuit | noodle | twit
rude_adj = useless | clueless | pathetic | brainless | ridiculous | smug | whiny | hopeless
jibe = nobody asked you about <topic> | your opinion is worth less than a <thing_word>
  | just shut up about <topic> | even a <thing_word> has more sense than you
  | you know nothing about <topic> | take your rubbish takes on <topic> elsewhere
nice = thanks for the tip about <topic> | i enjoyed your thread on <topic> | congrats on <topic>
  | your view on <topic> makes sense | hope <place> treats you well | see you in <place> tomorrow
praise = a star | a true friend | a kind soul | a great host | a legend | the best neighbor
chat = i am stuck in <place> with <topic> on my mind | my <thing_word> broke before <topic>
  | we talked about <topic> all day in <place> | i read about <topic> again | it rained in <place>
  | i missed the bus to <place> | i am watching <topic> from <place>
thing = my <thing_word> | the <thing_word> at work | our old <thing_word>
thing_word = toaster | printer | laptop | phone | fridge | kettle | bike | router | vacuum
who = this guy | that referee | the host | my boss | their coach | the new manager | that singer
topic = the game | the election | the new album | the budget | that finale | the weather
  | the bake sale | the transfer news | the exam | the train strike | the award show | the update
place = town | the office | the north | leeds | austin | the library | the gym | denver | cardiff
"""

_TOPICS = """
label* = <*> - <*_more> <day> , <source> said . | <*> <day> , and <*_more> .
  | <source> : <*> although <aside> . | <aside> , but <*> <day> .
either = <aside> <day> , <source> said , although <aside> . | <source> : <aside> while <aside> .
aside = <world_more> | <sport_more> | <money_more> | <tech_more> | few details were given
  | questions remain in <city> | not everyone in <city> agrees
world = <state> and rebels agree on <pact> near <city> | <state> votes in a tense <poll>
  | <leader> of <state> meets envoys in <city> | troops leave <city> after <poll>
  | flood relief reaches villages in <state> | parliament in <city> rejects <pact>
  | <leader> calls for <pact> in <city> | thousands march in <city> before the <poll>
world_more = <pact> is not yet signed | <leader> faces pressure over <pact> | talks resume in <city>
  | aid convoys are waiting at the border | the <poll> divides <state>
sport = <team> <beats> <team> in <city> | <player> <scores> against <team>
  | <coach> of <team> resigns after defeat in <city> | <player> wins the <cup> in <city>
  | <team> signs <player> from <team> | injured <player> will miss the <cup>
  | <team> reaches the <cup> final | a late penalty saves <team> in <city>
sport_more = the <cup> is still wide open | <player> was cheered by fans | <coach> praised <player>
  | the crowd in <city> was loud | <team> has not lost at home this season
money = <firm> <moves> after <report> | <firm> buys <firm> in <deal> | <firm> sponsors the <cup>
  | <goods> prices <move> on <report> | <firm> cuts jobs in <city> despite profit
  | shares of <firm> <move> in <city> | investors sell <goods> after <report>
  | <bank> raises rates over <goods> costs
money_more = <goods> traders expected <report> | <bank> is watching inflation
  | shares of <firm> <move> after <report> | <firm> will not pay a dividend
tech = researchers in <city> build <device> | <probe> sends images of <body> | <firm> ships <device>
  | study links <body> dust to <finding> | a new <software> fixes a flaw in <device>
  | hackers break into a <software> used in <state> | scientists find <finding> near <city>
  | <firm> launches a <software> for <device>
tech_more = the <software> is free to download | <probe> is not damaged | <device> runs for weeks
  | the data on <finding> are public | engineers tested <device> in <city>
state = the island republic | the northern state | the coastal nation | the mountain kingdom
city = oslo | lima | geneva | nairobi | lisbon | toronto | hanoi | quito | dublin | osaka | perth
leader = the president | the prime minister | the foreign minister | the governor
poll = election | referendum | runoff vote
pact = the peace deal | the treaty | a ceasefire plan | a border accord | the climate pact
team = westport united | real arden | sporting vale | dynamo kell | the home side | port city
player = the striker | the young goalkeeper | the veteran pitcher | the champion | the rookie
coach = the coach | the head coach | the captain
beats = beats | edges | crushes | holds | stuns
scores = scores twice | hits a late winner | sets a record | stars
cup = league cup | world series | open title | grand prix | marathon
firm = norvale | a chip maker | a retailer | an airline | brightco | a phone company | halden group
moves = posts record profit | warns on profit | raises its forecast | cuts its outlook
move = rise | fall | jump | slide
report = a weak jobs report | strong sales | quarterly earnings | a rate decision | supply fears
deal = a cash deal | a stock deal | a billion dollar deal
goods = oil | gold | copper | wheat | coffee | gas
bank = the central bank | the reserve bank | a big lender
device = a smaller battery | a solar panel | a music player | a walking robot | a quantum chip
probe = the orbiter | a lander | the space telescope | a weather satellite
body = mars | saturn | the moon | a comet
finding = ancient ice | a new species | a fossil | warmer seas | a strange signal
software = browser | search tool | security patch | mail program | web service
day = on monday | on tuesday | on wednesday | on thursday | on friday | late sunday | this week
source = a spokesman | the agency | one report | a statement | an observer | local radio
"""


def _read_grammar(source: str, *classes: str) -> Grammar:
    """Turn `name = a | b` lines (continued on indented ones) into {name: (a, b)}.

    In a line with `*` each of `classes`, given in label order, takes its place in turn.
    """
    grammar = {}
    for line in re.sub(r"\n +", " ", source).strip().split("\n"):
        for number, word in enumerate(classes if "*" in line else [""]):
            name, body = line.replace("label*", f"label{number}").replace("*", word).split(" = ")
            grammar[name] = tuple(body.split(" | "))
    return grammar


TOY_TASKS: dict[str, Grammar] = {
    "toy-sentiment": _read_grammar(_SENTIMENT, "bad", "good"),
    "toy-offence": _read_grammar(_OFFENCE),
    "toy-topics": _read_grammar(_TOPICS, "world", "sport", "money", "tech"),
}


def _expand(grammar: Grammar, name: str, rng: random.Random, used: set[str]) -> str:
    """Write one text for `<name>`; `used` keeps a text from saying the same thing twice."""
    options = [option for option in grammar[name] if option not in used] or grammar[name]
    choice = options[int(rng.random() * len(options))]
    used.add(choice)
    return SLOT.sub(lambda slot: _expand(grammar, slot[1], rng, used), choice)


def _draw_rows(grammar: Grammar, n_rows: int, rng: random.Random) -> dict[str, int]:
    """Return {text: label} with n_rows distinct texts, classes in turn, no label noise.

    Raises BedkdError if the grammar hardly yields a new text any more.
    """
    n_labels = sum(name.startswith("label") for name in grammar)
    rows: dict[str, int] = {}
    for _ in range(_DRAWS_PER_ROW * n_rows):
        if len(rows) == n_rows:
            break
        label = len(rows) % n_labels
        start = "either" if rng.random() < AMBIGUOUS_SHARE else f"label{label}"
        rows.setdefault(_expand(grammar, start, rng, set()), label)
    if len(rows) < n_rows:
        raise BedkdError(f"{n_rows} rows asked, the grammar gave {len(rows)}: ask for fewer.")
    return rows


def _add_noise(labels: Sequence[int], rng: random.Random) -> list[int]:
    """Give NOISE_SHARE of the labels (0 to C-1), drawn at random, another value."""
    noisy, n_labels = list(labels), max(labels) + 1
    for row in rng.sample(range(len(labels)), round(NOISE_SHARE * len(labels))):
        noisy[row] = (labels[row] + rng.randrange(1, n_labels)) % n_labels
    return noisy


def generate(task: str, n_rows: int, seed: int) -> pd.DataFrame:
    """Return n_rows distinct texts of a task of TOY_TASKS, columns `text` (str), `label` (int).

    The result depends on the three arguments only, on any machine. Rows are in random order and
    classes balanced up to label noise. Draw train and test rows in one call to keep them apart.
    Raises BedkdError for an unknown task and for n_rows outside 1..MAX_ROWS.
    """
    if task not in TOY_TASKS:
        raise BedkdError(f"unknown toy task {task!r}: choose one of {', '.join(TOY_TASKS)}.")
    if not 1 <= n_rows <= MAX_ROWS:
        raise BedkdError(f"n_rows is {n_rows}: a toy task has from 1 to {MAX_ROWS} rows.")
    rng = random.Random(f"{task} {seed}")  # a str seed goes through SHA-512, not through hash()
    rows = list(_draw_rows(TOY_TASKS[task], n_rows, rng).items())
    rng.shuffle(rows)
    texts, labels = zip(*rows, strict=True)
    return pd.DataFrame({"text": texts, "label": _add_noise(labels, rng)})
