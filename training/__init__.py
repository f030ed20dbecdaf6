"""Training of the shipped model: scenes, tokenizer, mask codes, three stages, scores.

python -m training --output DIR                    train everything from scratch and write a checkpoint
python -m training.evaluate BUNDLE_OR_CHECKPOINT   score a model on scenes that were not used in training
python -m training.outliers OUTPUT                 write a copy of the shipped model with outlier channels

The modules, in an order in which each imports only earlier ones:

vocabulary, shapes, background, scenes         a scene by its seed, with its image and masks
tasks, tokenizer                               prompts, answers and their tokens
training_state, mask_codes, rendered_dataset   files of a run, the mask autoencoder, training data on disk
initialization, contrastive_model, prefix_lm   initial weights, the models and losses of all stages
recipe, loop, stage1, stage2                   hyperparameters and training
published_layout, checkpoint, outliers         checkpoints in the layout of published ones
scores, evaluate                               scores of a trained model
__main__                                       the command
"""
