package setup

import "context"

type ctx = context.Context
