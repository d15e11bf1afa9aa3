package snowflake

import "github.com/culvert-proxy/culvert/proxy/hints"

// The settings that remedies name, besides those of package hints.
const (
	patFile        hints.Setting = "Snowflake PAT file"
	keyFile        hints.Setting = "Snowflake private key file"
	passphraseFile hints.Setting = "Snowflake private key passphrase file"
	accountName    hints.Setting = "Snowflake account"
	userName       hints.Setting = "Snowflake user"
	roleName       hints.Setting = "Snowflake role"
	tokenURL       hints.Setting = "Snowflake token URL"
	jwtAccountName hints.Setting = "Snowflake JWT account"
)

// A remedy is what to do about an answer: a format, whose args may be settings.
type remedy struct {
	format string
	args   []any
}

// remedyf makes a remedy.
func remedyf(format string, args ...any) remedy { return remedy{format, args} }
