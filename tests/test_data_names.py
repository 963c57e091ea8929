from data.names import class_words


def test_wnids_are_called_by_their_first_english_name():
    assert [class_words(name) for name in ("n01440764", "n01484850")] == [
        "tench", "great white shark"]
    assert class_words("n00004475") == "organism"  # of ImageNet-21k alone
    assert [class_words(name) for name in ("cat", "7", "n99999999", "new000")] == [
        "cat", "7", "n99999999", "new000"]
