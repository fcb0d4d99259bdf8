package quicnet

import "github.com/drrun/drrun/transport/pki"

// ReadProof and ReadGrant are the decoders of a join and a renewal, for the
// fuzz targets.
var (
	ReadProof = readProof
	ReadGrant = accept
)

// EncodeGrant is a grant as the runtime sends it.
func EncodeGrant(ca *pki.CA, csr []byte, site, host string) ([]byte, error) {
	return grantFor(ca, csr, site, host)
}
