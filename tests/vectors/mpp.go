//go:build ignore

// Vectors of the `Payment` scheme, by Aperture's own implementation of it. Write them anew with
//
//	cd tests/lightning && go run ../vectors/mpp.go >../vectors/mpp.json
package main

import (
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"strings"

	"github.com/lightninglabs/aperture/mpp"
)

type id struct {
	Name       string            `json:"name"`
	Parameters map[string]string `json:"parameters"`
	ID         string            `json:"id"`
}

type charge struct {
	Macaroon    string `json:"macaroon"`
	Invoice     string `json:"invoice"`
	PaymentHash string `json:"payment_hash"`
	Sat         string `json:"sat"`
	Network     string `json:"network"`
	Expires     string `json:"expires"`
	Header      string `json:"header"`
}

type text struct {
	Text    string `json:"text"`
	Decoded string `json:"decoded"`
}

const secret = "tolsey-mpp-vectors-secret"

func identify(name string, values ...string) id {
	p := &mpp.ChallengeParams{Realm: values[0], Method: values[1], Intent: values[2], Request: values[3],
		Expires: values[4], Digest: values[5], Opaque: values[6]}
	parameters := map[string]string{}
	for n, key := range []string{"realm", "method", "intent", "request", "expires", "digest", "opaque"} {
		if values[n] != "" {
			parameters[key] = values[n]
		}
	}
	return id{name, parameters, mpp.ComputeChallengeID([]byte(secret), p)}
}

func sell(c charge) charge {
	request, err := mpp.EncodeRequest(&mpp.ChargeRequest{
		Amount: c.Sat, Currency: mpp.CurrencySat,
		MethodDetails: mpp.ChargeMethodDetails{Invoice: c.Invoice, PaymentHash: c.PaymentHash, Network: c.Network},
	})
	if err != nil {
		panic(err)
	}
	opaque, err := mpp.EncodeRequest(map[string]string{"macaroon": c.Macaroon})
	if err != nil {
		panic(err)
	}
	p := &mpp.ChallengeParams{Realm: "tolsey", Method: mpp.MethodLightning, Intent: mpp.IntentCharge,
		Request: request, Expires: c.Expires, Opaque: opaque}
	p.ID = mpp.ComputeChallengeID([]byte(secret), p)
	h := http.Header{}
	mpp.SetChallengeHeader(h, p)
	c.Header = h.Get("WWW-Authenticate")
	return c
}

func main() {
	hash := strings.Repeat("ab", 32)
	var texts []text
	for _, data := range []string{"00", "fffe", "fffefd", "68656c6c6f", "fbffbf03efff"} {
		raw, _ := hex.DecodeString(data)
		texts = append(texts, text{mpp.Base64URLEncode(raw), data})
	}
	out := map[string]any{
		"secret": hex.EncodeToString([]byte(secret)),
		"ids": []id{
			identify("required", "tolsey", "lightning", "charge", "eyJhbW91bnQiOiIxMDAifQ", "", "", ""),
			identify("expires", "tolsey", "lightning", "charge", "e30", "2026-03-15T12:05:00Z", "", ""),
			identify("digest", "tolsey", "lightning", "charge", "e30", "", "sha-256=:abc=:", ""),
			identify("opaque", "tolsey", "lightning", "charge", "e30", "", "", "eyJhIjoiYiJ9"),
			identify("all", "api.example.com", "lightning", "charge", "e30", "2026-03-15T12:05:00Z", "sha-256=:abc=:",
				"eyJhIjoiYiJ9"),
			identify("a session", "api.example.com", "lightning", "session", "e30", "", "", ""),
			identify("beyond ASCII", "caf\u00e9", "lightning", "charge", "e30", "", "", ""),
		},
		"charges": []charge{
			sell(charge{"AgECAwQ=", "lnbcrt320n1pjtest", hash, "32", "regtest", "2026-03-15T12:05:00Z", ""}),
			sell(charge{"Ag+/+/8=", "lnbc10u1pjtest", strings.Repeat("0", 64), "1000", "mainnet", "2027-01-01T00:00:00Z", ""}),
		},
		"texts": texts,
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(out); err != nil {
		panic(err)
	}
}
