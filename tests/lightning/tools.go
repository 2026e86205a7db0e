//go:build tools

package lightning

import (
	_ "github.com/btcsuite/btcd"
	_ "github.com/lightninglabs/aperture/cmd/aperture"
	_ "github.com/lightningnetwork/lnd/cmd/lnd"
)
