"""Where logs lie and how they are laid out: one frozen config a source, told apart by `kind`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

TimeUnit = Literal["s", "ms", "us", "ns"]


class Frozen(BaseModel):
    """A config: keyword-only, frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MovieLensSource(Frozen):
    """A folder of MovieLens: 100K (GroupLens' u.data or RecBole's atomic files), 1M (.dat) or latest (.csv)."""

    kind: Literal["movielens"] = "movielens"
    uri: str = "package://recbole/dataset_example/ml-100k"


class RecBoleSource(Frozen):
    """RecBole's atomic files: `uri` is a folder, files are NAME.inter, NAME.item and, where there is one, NAME.user."""

    kind: Literal["recbole"]
    uri: str
    name: str


class MindSource(Frozen):
    """Folders of MIND, each with behaviors.tsv and news.tsv."""

    kind: Literal["mind"]
    uris: tuple[str, ...]


class AmazonSource(Frozen):
    """Amazon Reviews of 2014, 2018 or 2023: JSON lines of reviews and of metadata."""

    kind: Literal["amazon"]
    reviews: str
    metadata: str


class TallrecSource(Frozen):
    """TALLRec's JSON: liked and disliked titles, a candidate, yes or no."""

    kind: Literal["tallrec"]
    uri: str


class LastfmSource(Frozen):
    """The folder of hetrec2011-lastfm-2k: plays, artists, tags, friends."""

    kind: Literal["lastfm"]
    uri: str


class DknSource(Frozen):
    """DKN's news lines: user, title, clicked, entities; `uris` in order of time."""

    kind: Literal["dkn"]
    uris: tuple[str, ...]


class RatedAdsSource(Frozen):
    """The folder of rated ads: overall_ad_ratings.csv, content_labels.csv, ad_texts.jsonl, participant_context.csv."""

    kind: Literal["rated_ads"]
    uri: str


class Columns(Frozen):
    """Which column of the user's files holds what; None where there is none."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str | None = "timestamp"
    position: str | None = None
    rating: str | None = None
    event: str | None = None
    review: str | None = None
    title: str = "title"
    text: str | None = None
    categories: str | None = None
    attributes: str | None = None
    user_text: str | None = None


class ColumnsSource(Frozen):
    """Plain Parquet, CSV, TSV or JSON lines files, told apart by their endings; a file, a folder or a glob."""

    kind: Literal["columns"]
    interactions: str
    items: str
    users: str | None = None
    columns: Columns = Columns()
    time_unit: TimeUnit = "s"
    category_separator: str = Field("|", min_length=1)


Source = (
    MovieLensSource
    | RecBoleSource
    | MindSource
    | AmazonSource
    | TallrecSource
    | LastfmSource
    | DknSource
    | RatedAdsSource
    | ColumnsSource
)
