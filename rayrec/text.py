"""The only place that turns an item, a profile or a history into text for a language model."""

import pyarrow as pa


def item_texts(items: pa.Table) -> list[str]:
    """One text an item: title, categories, attributes, description, in that order so that truncation keeps the title.

    Args:
        items: a table of the ITEMS schema (more columns are ignored).
    """
    return [
        ". ".join(
            part
            for part in (
                row["title"].strip(),
                ", ".join(row["categories"] or ()).lower(),
                ", ".join(row["attributes"] or ()),
                (row["text"] or "").strip(),
            )
            if part
        )
        for row in items.select(["title", "categories", "attributes", "text"]).to_pylist()
    ]


def profile_text(user_text: str, liked: list[str], disliked: list[str]) -> str:
    """A user in one sentence or two; "" where nothing is known.

    Args:
        user_text: what the user says or the log knows of them, free text.
        liked: interest terms, strongest first.
        disliked: terms of what the user turned down, strongest first.
    """
    parts = []
    if liked:
        parts.append("likes " + ", ".join(liked))
    if disliked:
        parts.append("dislikes " + ", ".join(disliked))
    if user_text:
        parts.append(user_text)
    return ". ".join(parts).lower()
