"""Logs whose items share meaning and no word: every word is of one item, so that identity relates nothing.

Each word is one token of BERT's vocabulary, so that items share no piece of a word either and all texts are equally
long.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from tests.synthetic import SyntheticLogs

WORDS: dict[str, str] = {
    "space": (
        "planet galaxy comet asteroid orbit rocket astronaut satellite telescope nasa moon mars venus jupiter "
        "saturn neptune pluto star nebula meteor cosmos universe spacecraft shuttle apollo kepler astronomer "
        "constellation eclipse crater lunar solar stellar celestial orbital galactic cosmic alien ufo gravity "
        "astronomy observatory orion sirius martian earth nova planetary galileo spaceship mercury sun probe "
        "capsule sky hemisphere soyuz rover aurora astronomical"
    ),
    "cooking": (
        "bread butter cheese soup sauce oven pasta rice noodles flour dough bacon sausage salad sandwich pie "
        "cake cookie chocolate vanilla cinnamon garlic onion pepper salt sugar honey roast grill chef recipe "
        "kitchen cuisine dessert pudding cream milk egg toast beef pork chicken steak vinegar mustard "
        "spaghetti pizza lunch dinner breakfast supper meal spoon stove barbecue pastry syrup shrimp biscuits "
        "stew"
    ),
    "football": (
        "goalkeeper striker midfielder defender winger referee penalty stadium league fifa uefa arsenal "
        "chelsea liverpool everton southampton juventus coach fullback quarterback linebacker touchdown "
        "championship goal kick tackle relegation premiership soccer nfl club fans supporters match halftime "
        "playoffs derby tottenham sunderland celtic rangers ajax benfica milan leeds squad team strikers "
        "kickoff scorer ball wembley burnley watford bundesliga fumble cornerback lineman punt steelers"
    ),
    "crime": (
        "murder detective police theft robbery prison inmate handcuffs suspect witness jury verdict trial "
        "lawyer prosecutor judge sheriff arrest gun homicide kidnapping ransom blackmail fraud bribe mafia "
        "gangster gang smuggling heroin cocaine thief criminal convicted sentenced parole bail evidence "
        "forensic corpse victim killer assassin hostage arson assault felony guilty interrogation confession "
        "investigator cop fbi jail warrant attorney outlaw bandit crook courtroom"
    ),
    "music": (
        "guitar violin piano trumpet drum flute cello orchestra choir opera symphony concerto jazz melody "
        "rhythm song singer chorus album composer band bass saxophone clarinet banjo mandolin trombone tuba "
        "fiddle sonata quartet hymn ballad lyrics soprano tenor baritone harmony tempo vinyl concert drummer "
        "guitarist pianist violinist percussion synthesizer reggae waltz tune musician anthem mozart "
        "beethoven chopin disco acoustic vocals soundtrack lullaby"
    ),
    "garden": (
        "rose orchid lily daisy lavender ivy fern moss hedge lawn shovel soil greenhouse seed oak maple "
        "willow birch pine cedar elm beech spruce fir hawthorn shrub blossom bloom bouquet flower leaf branch "
        "root stem weeds grass meadow orchard pond bee butterfly worm gardener landscaping botanical rake "
        "vine violet iris magnolia cactus bamboo thorn pollen foliage clover thistle nursery planting harvest"
    ),
}
"""By topic of tests.synthetic, which none of them names."""


def in_words(logs: SyntheticLogs, seed: int = 0) -> SyntheticLogs:
    """The same logs with two words of its topic as the title and the text of each item, and of no other.

    Args:
        logs: of generate(), with at most 30 items a topic.
        seed: of the words' order.
    """
    rng = np.random.default_rng(seed)
    left = {topic: rng.permutation(words.split()).tolist() for topic, words in WORDS.items()}
    items = logs.items
    for name in ("title", "text"):
        words = pa.array([left[topic].pop() for topic in logs.item_topics])
        items = items.set_column(items.column_names.index(name), name, words)
    return replace(logs, items=items)
