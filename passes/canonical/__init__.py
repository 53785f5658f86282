"""captured → canonical: one spelling for every idea."""
