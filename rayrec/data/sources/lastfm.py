"""hetrec2011-lastfm-2k: plays of artists, friendships and, where the file is there, tags.

I. Cantador, P. Brusilovsky and T. Kuflik, "HetRec 2011", RecSys 2011.

The set has no order at all: its rows go by the artists' ids and by counts, so the last row of a user would be the
artist that is least played or least known. Positions are a hash of user and artist instead, so that the one left out
last is a random one. `rating` holds the number of plays; with `like_threshold: null` it tells no opinion.
"""

import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.files import Delimited
from rayrec.data.hashing import hash_strings
from rayrec.data.sources.config import LastfmSource
from rayrec.data.sources.logs import Logs, LogTable, canonical
from rayrec.data.sources.texts import unescaped
from rayrec.data.sources.values import numbers, prefixed, repeated, strings
from rayrec.schema import RAW_INTERACTIONS, RAW_ITEMS, TRIPLES
from rayrec.storage import exists, join

DAT = Delimited("\t", quoted=False)
_HASH_BITS = 40


def read_lastfm(source: LastfmSource) -> Logs:
    """Reads plays, artists and friends, and the tags if user_taggedartists.dat is there."""
    files = {name: join(source.uri, f"{name}.dat") for name in ("user_friends", "user_taggedartists", "tags")}
    triples = [LogTable((files["user_friends"],), DAT, _friends)]
    if exists(files["user_taggedartists"]):
        triples.append(LogTable((files["user_taggedartists"],), DAT, _tagged))
        triples.append(LogTable((files["tags"],), DAT, _tags))
    return Logs(
        interactions=(LogTable((join(source.uri, "user_artists.dat"),), DAT, _plays),),
        items=(LogTable((join(source.uri, "artists.dat"),), DAT, _artists),),
        triples=tuple(triples),
        order_only=True,
    )


def _plays(block: pa.Table) -> pa.Table:
    user, artist = strings(block["userID"]), strings(block["artistID"])
    pair = pc.binary_join_element_wise(user, artist, " ")
    columns = {
        "user_id": user,
        "item_id": artist,
        "timestamp": pa.array((hash_strings(pair) >> (64 - _HASH_BITS)).astype("int64")),
        "rating": numbers(block["weight"]),
        "event": repeated("play", block),
    }
    return canonical(RAW_INTERACTIONS, block["row"], columns)


def _artists(block: pa.Table) -> pa.Table:
    return canonical(RAW_ITEMS, block["row"], {"item_id": strings(block["id"]), "title": unescaped(block["name"])})


def _friends(block: pa.Table) -> pa.Table:
    head, tail = prefixed("user:", block["userID"]), prefixed("user:", block["friendID"])
    return canonical(TRIPLES, block["row"], {"head": head, "relation": repeated("friend", block), "tail": tail})


def _tagged(block: pa.Table) -> pa.Table:
    head, tail = prefixed("item:", block["artistID"]), prefixed("name:tag ", block["tagID"])
    return canonical(TRIPLES, block["row"], {"head": head, "relation": repeated("tagged", block), "tail": tail})


def _tags(block: pa.Table) -> pa.Table:
    head, tail = prefixed("name:tag ", block["tagID"]), prefixed("name:", block["tagValue"])
    return canonical(TRIPLES, block["row"], {"head": head, "relation": repeated("says", block), "tail": tail})
