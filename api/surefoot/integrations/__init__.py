"""Training code of other libraries, as it is: a transformers.Trainer, a LightningModule.

Each module needs its library when it is used, and the extra of its name brings it: `pip install 'surefoot[huggingface]'`. What a library
offers and Surefoot does not do is refused by name, never skipped: see `surefoot.integrations.support`.
"""
