"""A data block, transfer learning, interpretation."""
from minifast.vision.all import *

set_seed(1)
block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
                  splitter=RandomSplitter(0.2, seed=42), item_tfms=RandomResizedCrop(128, min_scale=0.5),
                  batch_tfms=[*aug_transforms(max_rotate=5), Normalize.from_stats(*imagenet_stats)])
dls = block.dataloaders(Path('pictures'), bs=32)
dls.show_batch(max_n=4)
learn = vision_learner(dls, resnet34, metrics=[error_rate, accuracy], cbs=MixUp(0.4)).to_bf16()
learn.fine_tune(3, freeze_epochs=2)
learn.tta(n=2)
interp = ClassificationInterpretation.from_learner(learn)
interp.plot_confusion_matrix(figsize=(4, 4))
interp.plot_top_losses(4)
unet = unet_learner(dls, resnet18, n_out=2, loss_func=CrossEntropyLossFlat(axis=1))
unet.summary()
