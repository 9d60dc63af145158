"""Users of the synthetic logs as an endpoint's clients know them: raw events, newest first, and what they say."""

import numpy as np

from rayrec.data.dataset import Dataset
from rayrec.serve.requests import Event, User
from tests.synthetic import SyntheticLogs


def users_at(logs: SyntheticLogs, data: Dataset, user_ids: list[str]) -> list[User]:
    """Everything in the logs on these users but for held-out items, which evaluation hides; with the future, as a
    request's `as_of` is what cuts it off.
    """
    about = dict(zip(logs.users["user_id"].to_pylist(), logs.users["about"].to_pylist(), strict=True))
    catalogue = data.catalogue()
    held_out = np.array(catalogue["held_out"].to_pylist()) != ""
    hidden = set(np.array(catalogue["item_id"].to_pylist())[held_out])
    events: dict[str, list[Event]] = {user_id: [] for user_id in user_ids}
    for row in logs.interactions.to_pylist()[::-1]:
        if row["user_id"] in events and row["item_id"] not in hidden:
            said = {name: row[name] for name in ("item_id", "rating", "review") if name in row}
            events[row["user_id"]].append(Event(timestamp=1000 * row["timestamp"], **said))
    return [User(history=events[user_id], profile=about[user_id] or "") for user_id in user_ids]
