"""How the shipped model was made, to the flag: scenes, tokenizer, mask codes, two stages of training, scores.

python -m training --output DIR              everything, from nothing to a checkpoint
python -m training.evaluate BUNDLE_OR_CHECKPOINT   its scores on scenes it has not seen
"""
