"""Training of the shipped model: scenes, tokenizer, mask codes, three stages, scores.

python -m training --output DIR                    train everything from scratch and write a checkpoint
python -m training.evaluate BUNDLE_OR_CHECKPOINT   score a model on scenes that were not used in training
python -m training.outliers OUTPUT                 write a copy of the shipped model with outlier channels

Modules by level; each imports only modules of lower levels:

1  vocabulary, shapes, published_layout, training_state
2  background
3  scenes                     a scene by its seed, with its image and masks
4  tasks, mask_codes          prompts and answers; the mask autoencoder
5  tokenizer, rendered_dataset, initialization, prefix_lm, scores
6  recipe, contrastive_model  hyperparameters; the model of stage 1
7  loop, evaluate
8  stage1, stage2, checkpoint, outliers
9  __main__
"""
