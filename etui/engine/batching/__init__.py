"""Several answers on one session: what each batch computes, who takes part, who may begin."""
