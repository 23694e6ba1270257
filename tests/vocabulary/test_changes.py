"""A line for each pass, whatever the number of layers."""

from tfcompress.vocabulary.changes import Change, summary


def change(rewrite, layer, became=("new",), reason="it is wanted"):
    return Change(rewrite=rewrite, layer=layer, kind="Old", became=became, kinds=("New",) * len(became), reason=reason)


def test_a_pass_has_one_line_with_the_number_of_its_layers_and_a_few_names():
    many = [change("split", f"act_{index}") for index in range(19)]
    assert summary([change("flatten", "inner"), *many, change("flatten", "inner/deep")]) == [
        "flatten: 2 layers (inner, inner/deep); it is wanted",
        "split: 19 layers (act_0, act_1, act_2 and 16 more); it is wanted",
    ]


def test_each_layer_counts_once_and_each_reason_stands_once():
    twice = [change("fold", "bn"), change("fold", "bn", reason="again"), change("fold", "bn_1")]
    assert summary(twice) == ["fold: 2 layers (bn, bn_1); it is wanted; again"]
    assert summary([]) == []


def test_a_layer_that_keeps_its_name_is_told_by_its_class():
    assert str(change("p", "add_8", ("add_8",))) == "p: add_8 (Old) becomes add_8 (New); it is wanted"
    assert str(change("p", "noise", ())) == "p: noise (Old) becomes nothing; it is wanted"
