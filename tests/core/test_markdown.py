from nnunet_ext.core.markdown import table


def test_tables():
    made = table(["a", "b"], [(1, "x|y"), ("two\nlines", None)])
    assert made == "| a | b |\n| --- | --- |\n| 1 | x\\|y |\n| two lines | None |\n"
    assert table(["a", "b", "c"], [], numbers=True).splitlines()[1] == "| --- | ---: | ---: |"
