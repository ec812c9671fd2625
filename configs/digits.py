from tljax.config import Config, Data, Model, Optim


def get_config() -> Config:
    return Config(
        num_steps=600,
        log_every=50,
        eval_every=200,
        checkpoint_every=200,
        model=Model(name="resnet18", width=16, stem="small"),
        data=Data(source="digits", batch_size=64),
        optim=Optim(name="momentum", learning_rate=0.1, schedule="cosine", weight_decay=5e-4, warmup_steps=50),
    )
