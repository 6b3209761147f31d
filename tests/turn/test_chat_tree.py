"""The tree of a chat: paths, siblings, leaves, and what older logs become."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etui.turn.chat_tree import Node, build_tree


@st.composite
def trees(draw: st.DrawFn) -> list[Node]:
    """Turns t0, t1, …, each below an earlier one or at the root."""
    nodes: list[Node] = []
    for number in range(draw(st.integers(0, 14))):
        at = draw(st.integers(-1, number - 1))
        nodes.append(Node(f"t{number}", None if at < 0 else f"t{at}", draw(st.booleans())))
    return nodes


FORKED = build_tree(
    [Node("a"), Node("b", "a"), Node("c", "b"), Node("b2", "a"), Node("c2", "b2"), Node("a2")]
)


def test_a_path_leads_from_the_first_turn_to_a_leaf() -> None:
    assert FORKED.path("c2") == ("a", "b2", "c2")
    assert FORKED.path("nowhere") == FORKED.path(None) == ()
    assert FORKED.leaves() == ("c", "c2", "a2")


def test_siblings_are_numbered_and_end_at_both_sides() -> None:
    place = FORKED.place("b2")
    assert (place.index, place.siblings) == (1, ("b", "b2"))
    assert (place.step(-1), place.step(1), place.step(-2)) == ("b", None, None)
    assert FORKED.place("a").siblings == ("a", "a2")


def test_the_newest_branch_is_current_and_each_turn_has_its_own() -> None:
    assert FORKED.leaf() == "a2"
    assert FORKED.leaf("a") == "c2"
    assert FORKED.leaf("b") == "c"


def test_a_turn_without_an_answer_hides_no_branch() -> None:
    tree = build_tree([Node("a"), Node("b", "a"), Node("b2", "a", answered=False)])
    assert tree.leaf() == "b"
    assert build_tree([Node("a"), Node("b", "a", answered=False)]).leaf() == "b"


def test_a_turn_whose_parent_was_deleted_stays() -> None:
    tree = build_tree([Node("b", "gone"), Node("c", "b")])
    assert tree.path("c") == ("b", "c")


@given(trees())
def test_every_turn_is_on_one_path_and_among_its_siblings(nodes: list[Node]) -> None:
    tree = build_tree(nodes)
    for node in nodes:
        path = tree.path(node.turn_id)
        assert path[-1] == node.turn_id
        assert [tree.parents[each] for each in path] == [None, *path[:-1]]
        place = tree.place(node.turn_id)
        assert place.siblings[place.index] == node.turn_id
        assert len(set(place.siblings)) == len(place.siblings)
        assert tree.leaf(node.turn_id) in tree.leaves()
        assert node.turn_id in tree.path(tree.leaf(node.turn_id))
    paths = {turn for leaf in tree.leaves() for turn in tree.path(leaf)}
    assert paths == {node.turn_id for node in nodes}


@given(trees())
def test_going_back_and_forth_between_siblings_ends_where_it_began(nodes: list[Node]) -> None:
    tree = build_tree(nodes)
    for node in nodes:
        after = tree.place(node.turn_id).step(1)
        if after is not None:
            assert tree.place(after).step(-1) == node.turn_id


@given(trees())
def test_the_current_branch_has_the_newest_answer(nodes: list[Node]) -> None:
    tree = build_tree(nodes)
    answered = [node.turn_id for node in nodes if node.answered]
    assert (tree.leaf() is None) == (not nodes)
    if answered:
        assert answered[-1] in tree.path(tree.leaf())
