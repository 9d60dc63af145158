"""The words, categories and attributes that tell of an item, by TF-IDF, computed in pieces for catalogues of any size.

Letters: N items of the catalogue, V terms, W words of many texts laid end to end.
"""

import zlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

WORD_BUCKETS = 1 << 20
"""Size of the hashed vocabulary in which documents are counted."""
ITEM_WORDS = 8
"""Telling words of an item at most."""
REVIEW_WORDS = 16
"""Telling words of a review at most."""
MAX_CHARACTERS = 20_000
"""Of a text, what is read: a gigantic one costs no more than that."""

_LONGEST_WORD = 40
_BETWEEN_WORDS = r"[^\p{L}\p{M}\p{N}]+"
_FUNCTION_WORDS = """
a an the this that these those each every either neither both all any some such no nor not none other another same own
i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers herself
it its itself they them their theirs themselves one who whom whose which what whoever whatever whichever
am is are was were be been being do does did doing done have has had having will would shall should can could may might
must ought cannot isn aren wasn weren don doesn didn hasn haven hadn won wouldn shan shouldn couldn mustn ll ve re
and but or so if then else than because since until unless while whereas although though whether as
of at by for with about against between among into onto through throughout during before after above below to from up
down in out on off over under upon within without across along around behind beside besides beyond near toward towards
via per again further once here there where wherever when whenever why how however therefore thus hence
more most much many few fewer less least several enough quite rather very too also only just even ever never always
often still yet already almost perhaps etc
"""
"""English words that say how others belong together, and nothing of a subject."""
_STOP_WORDS = pa.array(_FUNCTION_WORDS.split(), pa.string())


def words_of(texts: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """The words of many texts: lower-cased, with a letter, of 2 to 40 characters, no English stop words.

    Args:
        texts: strings; a null has no words.

    Returns:
        Which text each word is of, ascending, and the words.
    """
    read = pc.utf8_slice_codeunits(texts.fill_null(""), 0, MAX_CHARACTERS)
    lists = pc.split_pattern_regex(pc.utf8_lower(pc.utf8_normalize(read, "NFKC")), _BETWEEN_WORDS)
    words = lists.flatten()
    length_W = pc.utf8_length(words).to_numpy(zero_copy_only=False)
    keep_W = (length_W >= 2) & (length_W <= _LONGEST_WORD)
    keep_W &= pc.match_substring_regex(words, r"\p{L}").to_numpy(zero_copy_only=False)
    keep_W &= ~pc.is_in(words, _STOP_WORDS).to_numpy(zero_copy_only=False)
    return _rows_of(lists)[keep_W], words.filter(pa.array(keep_W))


def strongest(groups_W: np.ndarray, weights_W: np.ndarray, most: int | np.ndarray) -> np.ndarray:
    """Places of each group's greatest weights, by group, greatest first; of equal weights the earlier place first.

    Args:
        groups_W: the group of each place, integers.
        weights_W: its weight.
        most: places of a group at most, one number or one for each place.
    """
    order_W = np.lexsort((-weights_W, groups_W))
    sorted_W = groups_W[order_W]
    rank_W = np.arange(len(order_W)) - np.searchsorted(sorted_W, sorted_W)
    limit_W = most if isinstance(most, int) else most[order_W]
    chosen: np.ndarray = order_W[rank_W < limit_W]
    return chosen


def lists_of(groups: np.ndarray, num_groups: int, values: pa.Array, null: np.ndarray | None = None) -> pa.ListArray:
    """Values as one list a group.

    Args:
        groups: the group of each value, ascending.
        num_groups: how many there are.
        values: any Arrow array.
        null: bool by group, true where there is null instead of an empty list.
    """
    offsets = np.searchsorted(groups, np.arange(num_groups + 1)).astype(np.int32)
    mask = None if null is None or not null.any() else pa.array(null)
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=mask)


def _rows_of(lists: pa.Array) -> np.ndarray:
    """The row of each element of a list array."""
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    rows: np.ndarray = np.repeat(np.arange(len(lists)), lengths)
    return rows


def _encoded(words: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """A code for each word, and the distinct words in order of first appearance."""
    encoded = words.dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary


def _buckets(words: pa.Array) -> np.ndarray:
    return np.array([zlib.crc32(word.encode()) % WORD_BUCKETS for word in words.to_pylist()], np.int64)


def _telling_texts(items: pa.Table) -> pa.Array:
    """Where an item's words come from: its title and description.

    Of an item that has categories but no description no word is taken: a name alone (of a film, a song) seldom says
    what kind of thing it names, which the categories do.
    """
    title, text = (items[name].combine_chunks() for name in ("title", "text"))
    text = pc.utf8_trim_whitespace(text.fill_null(""))
    uncategorised = pc.equal(pc.fill_null(pc.list_value_length(items["categories"].combine_chunks()), 0), 0)
    speaks = pc.or_(pc.not_equal(text, ""), uncategorised)
    return pc.if_else(speaks, pc.binary_join_element_wise(title, text, " "), "")


def _word_counts(texts: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray, pa.Array]:
    """Distinct pairs of a text and a word, by text, then word: text, code of the word, how often; and the words."""
    text_W, words_W = words_of(texts)
    code_W, names = _encoded(words_W)
    order = pc.sort_indices(names).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    pairs, counts = np.unique(text_W * max(len(names), 1) + rank[code_W], return_counts=True)
    return pairs // max(len(names), 1), pairs % max(len(names), 1), counts, names.take(pa.array(order))


def document_frequencies(items: pa.Table) -> np.ndarray:
    """In how many items each word occurs, by hashed word; the sum over pieces of a catalogue is that of the whole.

    Args:
        items: a piece of the catalogue: title, text and categories of the ITEMS schema.

    Returns:
        int32 [WORD_BUCKETS].
    """
    _, code, _, names = _word_counts(_telling_texts(items))
    return np.bincount(_buckets(names)[code], minlength=WORD_BUCKETS).astype(np.int32)


def telling_terms(items: pa.Table, frequencies: np.ndarray, num_items: int) -> tuple[pa.Array, pa.Array]:
    """The columns `terms` and `term_weights` of CATALOGUE: each item's words of greatest TF-IDF, strongest first.

    The weight is (1 + log count) * log((1 + items) / (1 + items with the word)). A word of one item is left out, for it
    tells nothing of another; equal weights go by word.

    Args:
        items: a piece of the catalogue: title, text and categories of the ITEMS schema.
        frequencies: document_frequencies() of the whole catalogue.
        num_items: how many items that has.

    Returns:
        list<string> and list<float32>, one a row, at most ITEM_WORDS long.
    """
    item, code, count, names = _word_counts(_telling_texts(items))
    frequency = frequencies[_buckets(names)]
    rarity = np.where(frequency >= 2, np.log((1 + num_items) / (1 + frequency)), 0)
    # Rounded, so that two machines whose logarithms differ in the last bit agree on order and bytes.
    weight = np.round((1 + np.log(count)) * rarity[code], 4)
    item, code, weight = (values[weight > 0] for values in (item, code, weight))
    best = strongest(item, weight, ITEM_WORDS)
    words, weights = names.take(pa.array(code[best])), pa.array(weight[best].astype(np.float32))
    return lists_of(item[best], len(items), words), lists_of(item[best], len(items), weights)


@dataclass(frozen=True)
class Terms:
    """What a profile may name: categories and attributes (labels) in order of appearance, then words, the rarest first.

    Attributes:
        names: V strings; a word that is also a label appears as the label alone.
        num_labels: labels among them.
        rarity_V: float64, what one mention in a review counts: 1 for the rarest words, towards 0 for what most items
            say, 0 for labels.
        matrix: csr float32 [N, V], 1 where a term tells of an item. Words count alike once TF-IDF has chosen them, for
            by their weights one rare word would outweigh what several items of a user have in common.
    """

    names: pa.Array
    num_labels: int
    rarity_V: np.ndarray
    matrix: sparse.csr_matrix


def terms_of(catalogue: pa.Table) -> Terms:
    """Reads categories, attributes and words of a catalogue; an attribute of one item is left out, like such a word.

    Args:
        catalogue: in dense-index order: `categories`; `attributes`, `terms` and `term_weights` where it has them.
    """
    category_rows, categories = _flat(catalogue, "categories")
    attribute_rows, attributes = _flat(catalogue, "attributes")
    attribute_codes, _ = _encoded(attributes)
    shared = np.bincount(attribute_codes)[attribute_codes] >= 2
    label_codes, labels = _encoded(pa.concat_arrays([categories, attributes.filter(pa.array(shared))]))
    word_rows, words = _flat(catalogue, "terms")
    fresh = ~pc.is_in(words, pc.utf8_lower(labels)).to_numpy(zero_copy_only=False)
    word_codes, names = _encoded(words.filter(pa.array(fresh)))
    rarity = np.full(len(names), np.inf)
    if len(names):
        # A word's weight is least where an item has it once, and there it is its rarity.
        weights = catalogue["term_weights"].combine_chunks().flatten().to_numpy().astype(np.float64)
        np.minimum.at(rarity, word_codes, weights[fresh])
    order = np.lexsort((pc.rank(names).to_numpy(), -rarity))
    place = np.argsort(order)
    rows = np.concatenate([category_rows, attribute_rows[shared], word_rows[fresh]]).astype(np.int32)
    columns = np.concatenate([label_codes, len(labels) + place[word_codes]]).astype(np.int32)
    shape = (len(catalogue), max(len(labels) + len(names), 1))
    matrix = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
    rarity_V = np.concatenate([np.zeros(len(labels)), rarity[order] / max(rarity.max(initial=0), 1e-9)])
    return Terms(pa.concat_arrays([labels, names.take(pa.array(order))]), len(labels), rarity_V, matrix)


def _flat(catalogue: pa.Table, name: str) -> tuple[np.ndarray, pa.Array]:
    """The row of each string of a column of lists, and the strings; none where there is no such column."""
    if name not in catalogue.column_names:
        return np.zeros(0, np.int64), pa.array([], pa.string())
    lists = catalogue[name].combine_chunks()
    return _rows_of(lists), lists.flatten()


def review_terms(reviews: pa.Array | pa.ChunkedArray, terms: Terms) -> pa.ListArray:
    """The words of each review that tell of some item, rarest first.

    Args:
        reviews: strings, null where there is no review.
        terms: of the catalogue.

    Returns:
        list<int32>, indices into `terms.names`, at most REVIEW_WORDS a review; null for null.
    """
    if isinstance(reviews, pa.ChunkedArray):
        reviews = reviews.combine_chunks()
    text_W, words_W = words_of(reviews)
    found_W = pc.index_in(words_W, value_set=terms.names.slice(terms.num_labels))
    known = found_W.is_valid().to_numpy(zero_copy_only=False)
    index_W = found_W.drop_null().to_numpy() + terms.num_labels
    pairs = np.unique(text_W[known] * len(terms.names) + index_W)
    text, index = pairs // max(len(terms.names), 1), pairs % max(len(terms.names), 1)
    best = strongest(text, terms.rarity_V[index], REVIEW_WORDS)
    values = pa.array(index[best].astype(np.int32))
    return lists_of(text[best], len(reviews), values, reviews.is_null().to_numpy(zero_copy_only=False))
