"""What is offered for money: the terms of an offer, and the token that is bound to them. Pure."""
