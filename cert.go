package main

// Certificates, their private key, the authorities for clients' certificates, and
// the keys of session tickets. The arbiter reads the files, because the workers'
// user may lack permission, checks once a second whether the files have changed,
// and publishes valid content in memory shared with the workers. A renewed
// certificate therefore needs no reload, and a session resumes in any worker.

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	ticketLife  = 8 * time.Hour // time until a new key encrypts new session tickets
	ticketSize  = 32            // bytes of a key
	ticketsKept = 3             // keys whose tickets are accepted; three times ticketLife is a day
	certFileMax = 1 << 20       // bytes of one file; a system's bundle of authorities has 200 KB
	vaultMax    = 4 << 20       // bytes of one keyring: three files and the ticket keys
)

// usesTLS reports whether listeners speak TLS.
func (c *config) usesTLS() bool { return c.certfile != "" || c.keyfile != "" }

// checkTLS checks the settings for TLS, without reading the files.
func (c *config) checkTLS() error {
	if !c.usesTLS() {
		return nil
	}
	if _, err := selectSuites(c.ciphers); err != nil {
		return err
	}
	switch {
	case c.certfile == "":
		return sentence("keyfile: %q needs certfile, the certificate that belongs to it", c.keyfile)
	case c.certReqs > 2:
		return sentence("cert_reqs: %d is none of 0 (no certificate of the client), 1 (optional) and 2 (required)", c.certReqs)
	case c.certReqs > 0 && c.caCerts == "":
		return sentence("cert_reqs: %d needs ca_certs, the authorities that the certificates of clients come from", c.certReqs)
	}
	return nil
}

// warnOfVersion warns that ssl_version is ignored.
func (c *config) warnOfVersion(log *errorLog) {
	if v, given := c.given["ssl_version"]; c.usesTLS() && given && v != int64(2) && v != nil {
		log.warningf("ssl_version is ignored: TLS 1.3 and 1.2 are spoken")
	}
}

// keyring is everything secret or renewable that TLS needs.
type keyring struct {
	cert, key, ca []byte // content of the files, in PEM
	tickets       []byte // keys of session tickets, newest first
}

// readKeyring reads and checks the files named by the settings.
func readKeyring(c *config) (*keyring, error) {
	k := &keyring{}
	for _, f := range []struct {
		setting, path string
		to            *[]byte
	}{{"certfile", c.certfile, &k.cert}, {"keyfile", c.keyfile, &k.key}, {"ca_certs", c.caCerts, &k.ca}} {
		if f.path == "" {
			continue
		}
		b, err := readCertFile(c.inDir(f.path))
		if err != nil {
			return nil, sentence("%s: %q: %v", f.setting, f.path, err)
		}
		*f.to = b
	}
	if c.keyfile == "" {
		k.key = k.cert
	}
	_, err := k.tls(c)
	return k, err
}

// inDir makes a path absolute, relative to the directory of the application.
func (c *config) inDir(path string) string {
	return (&start{dir: c.chdir}).path(path)
}

func readCertFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errors.Unwrap(err) // the caller's message names the path
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, certFileMax+1))
	switch {
	case err != nil:
		return nil, errors.Unwrap(err)
	case len(b) > certFileMax:
		return nil, fmt.Errorf("the file is longer than %d bytes", certFileMax)
	}
	return b, nil
}

// tls makes the configuration of handshakes from a keyring. Errors are sentences.
func (k *keyring) tls(c *config) (*tls.Config, error) {
	ids, err := selectSuites(c.ciphers)
	if err != nil {
		return nil, err
	}
	pair, err := k.pair(c)
	if err != nil {
		return nil, err
	}
	t := &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS12,
		CipherSuites: ids,
		NextProtos:   []string{"http/1.1"},
		// Use full records from the start. Short first records would show the
		// beginning of a page earlier, but cost every small response more than
		// they gain.
		DynamicRecordSizingDisabled: true,
		GetConfigForClient:          checkServerName,
	}
	if c.certReqs > 0 {
		t.ClientAuth = tls.VerifyClientCertIfGiven
		if c.certReqs == 2 {
			t.ClientAuth = tls.RequireAndVerifyClientCert
		}
		t.ClientCAs = x509.NewCertPool()
		if !t.ClientCAs.AppendCertsFromPEM(k.ca) {
			return nil, sentence("ca_certs: %q has no certificate in PEM form", c.caCerts)
		}
	}
	if len(k.tickets) > 0 {
		var keys [][32]byte
		for key := range slices.Chunk(k.tickets, ticketSize) {
			keys = append(keys, [32]byte(key))
		}
		t.SetSessionTicketKeys(keys)
	}
	return t, nil
}

// checkServerName refuses a handshake whose server name (RFC 6066 3) could not be
// a Host: applications find the name in their environ.
func checkServerName(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if name := hello.ServerName; name != "" && (len(name) > maxServerName || !validAuthority([]byte(name))) {
		return nil, fmt.Errorf("%.*q is not the name of a server", maxServerName, name)
	}
	return nil, nil
}

// pair loads the certificate and its key. Go's errors are worded for programmers,
// so the usual mistakes of operators are checked first.
func (k *keyring) pair(c *config) (pair tls.Certificate, err error) {
	setting, path := "keyfile", c.keyfile
	if path == "" {
		setting, path = "certfile", c.certfile
	}
	if !strings.Contains(typesPEM(k.cert), "CERTIFICATE\n") {
		return pair, sentence("certfile: %q has no certificate in PEM form", c.certfile)
	}
	if types := typesPEM(k.key); strings.Contains(types, "ENCRYPTED") {
		return pair, sentence("%s: %q has a key that is encrypted, and nobody can be asked for the passphrase; "+
			"decrypt it with `openssl pkey`", setting, path)
	} else if !strings.Contains(types, "PRIVATE KEY\n") {
		return pair, sentence("%s: %q has no private key in PEM form", setting, path)
	}
	pair, err = tls.X509KeyPair(k.cert, k.key)
	if err != nil {
		text := strings.TrimPrefix(err.Error(), "tls: ")
		if strings.Contains(text, "does not match") {
			return pair, sentence("%s: %q is not the key of the certificate in %q", setting, path, c.certfile)
		}
		return pair, sentence("%s: %q: %s", setting, path, text)
	}
	if key, ok := pair.Leaf.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < 1024 {
		return pair, sentence("certfile: %q has an RSA key of %d bits; 2048 are the least that clients accept", c.certfile, key.N.BitLen())
	}
	return pair, nil
}

// typesPEM lists the types of b's PEM blocks. An old encrypted key says so in a header.
func typesPEM(b []byte) (types string) {
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		types += block.Headers["Proc-Type"] + block.Type + "\n"
	}
	return types
}

func (k *keyring) encode() []byte {
	return appendMarshal(nil, []any{k.cert, k.key, k.ca, k.tickets})
}

func decodeKeyring(b []byte) (*keyring, error) {
	v, err := unmarshal(b)
	list, _ := v.([]any)
	k := &keyring{}
	to := []*[]byte{&k.cert, &k.key, &k.ca, &k.tickets}
	if err != nil || len(list) != len(to) {
		return nil, fmt.Errorf("certificates: %w", errMarshal)
	}
	for i := range to {
		*to[i], _ = list[i].([]byte)
	}
	k.tickets = k.tickets[:len(k.tickets)/ticketSize*ticketSize]
	return k, nil
}

// Shared memory ---------------------------------------------------------------

// vault publishes the newest keyring to the workers, in shared memory: a number,
// and two places for a keyring. The number's parity selects the current place.
// The next keyring is written to the other place before the number changes, so
// that workers never read a half-written keyring.
type vault struct {
	fd     int
	shared int // read-only descriptor of the same memory, for workers
	cfg    *config
	number uint64   // number of the current keyring
	ring   *keyring // the current keyring
	known  [3]stamp // stamps of the files when they were last read, valid or not
	seen   [3]stamp // stamps of the files at the last check
	looked int64    // time of the last check
	turned int64    // time when the newest ticket key was made
}

const vaultHead = 4096 // offset of the first place, after the number

// openVault reads the files for the first time. During a reload, old is the vault
// of the previous settings: its tickets stay valid unless cert_reqs or the
// authorities for clients' certificates have changed.
func openVault(c *config, old *vault) (v *vault, err error) {
	if !c.usesTLS() {
		return nil, nil
	}
	v = &vault{cfg: c, turned: monotonic(), looked: monotonic()}
	v.known = v.stamps()
	v.seen = v.known
	if v.ring, err = readKeyring(c); err != nil {
		return nil, err
	}
	if old != nil && old.cfg.certReqs == c.certReqs && bytes.Equal(old.ring.ca, v.ring.ca) {
		v.ring.tickets, v.turned = old.ring.tickets, old.turned
	} else {
		v.newTicketKey()
	}
	if v.fd, err = memfd("certificates", nil); err != nil {
		return nil, err
	}
	if v.shared, err = openAnew(v.fd, unix.O_RDONLY); err != nil {
		return nil, err
	}
	return v, v.publish()
}

func (v *vault) close() {
	if v != nil && v.fd >= 0 {
		unix.Close(v.fd)
		unix.Close(v.shared)
		v.fd = -1
	}
}

// stamps returns the stamps of the three files.
func (v *vault) stamps() (s [3]stamp) {
	for i, path := range []string{v.cfg.certfile, v.cfg.keyfile, v.cfg.caCerts} {
		if path != "" {
			s[i] = stampOf(v.cfg.inDir(path))
		}
	}
	return s
}

// newTicketKey makes a new key for session tickets.
func (v *vault) newTicketKey() {
	keys := make([]byte, ticketSize, ticketsKept*ticketSize)
	_, _ = rand.Read(keys) // never fails
	v.ring.tickets = append(keys, v.ring.tickets[:min(len(v.ring.tickets), cap(keys)-ticketSize)]...)
	v.turned = monotonic()
}

func (v *vault) publish() error {
	b := v.ring.encode()
	if len(b) > vaultMax-8 {
		return fmt.Errorf("certfile, keyfile and ca_certs have more than %d bytes", vaultMax)
	}
	number := v.number + 1
	at := int64(vaultHead + number%2*vaultMax)
	if _, err := unix.Pwrite(v.fd, append(binary.LittleEndian.AppendUint64(nil, uint64(len(b))), b...), at); err != nil {
		return os.NewSyscallError("pwrite", err)
	}
	if _, err := unix.Pwrite(v.fd, binary.LittleEndian.AppendUint64(nil, number), 0); err != nil {
		return os.NewSyscallError("pwrite", err)
	}
	v.number = number
	return nil
}

// keep checks once a second whether the files have changed, and reads changed
// files a second later: certificate and key are seldom written at the same time.
// Invalid files are reported once, and the old keyring stays in use.
func (v *vault) keep(log *errorLog) {
	now := monotonic()
	if v == nil || v.fd < 0 || now-v.looked < int64(time.Second) {
		return
	}
	v.looked = now
	seen := v.stamps()
	settled := seen == v.seen
	v.seen = seen
	changed := settled && seen != v.known
	due := now-v.turned >= int64(ticketLife)
	if !changed && !due {
		return
	}
	if changed {
		v.known = seen
		ring, err := readKeyring(v.cfg)
		if err != nil {
			log.errorf("%s; the certificate that was there stays in use.", plainSentence(err))
			return
		}
		ring.tickets = v.ring.tickets
		if !bytes.Equal(ring.ca, v.ring.ca) {
			ring.tickets, due = nil, true
		}
		v.ring = ring
		log.infof("TLS: the files of the certificate have changed and are in use.")
	}
	if due {
		v.newTicketKey()
	}
	if err := v.publish(); err != nil {
		log.errorf("TLS: %v", err)
	}
}

// readVault returns the current keyring, or nil if its number is still number. A
// keyring that is replaced during the read is read again.
func readVault(fd int, number uint64) (*keyring, uint64, error) {
	for {
		newest, err := vaultWord(fd, 0)
		if err != nil || newest == number {
			return nil, number, err
		}
		b, err := vaultPage(fd, int64(vaultHead+newest%2*vaultMax))
		if again, changed := vaultWord(fd, 0); changed == nil && again != newest {
			continue
		}
		if err != nil {
			return nil, number, err
		}
		k, err := decodeKeyring(b)
		return k, newest, err
	}
}

func vaultPage(fd int, at int64) ([]byte, error) {
	size, err := vaultWord(fd, at)
	b := make([]byte, min(size, vaultMax-8))
	if n, _ := unix.Pread(fd, b, at+8); err != nil || n < int(size) {
		return nil, errMarshal
	}
	return b, nil
}

func vaultWord(fd int, at int64) (uint64, error) {
	var b [8]byte
	if n, err := unix.Pread(fd, b[:], at); err != nil || n < len(b) {
		return 0, fmt.Errorf("certificates: %w", errMarshal)
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

// Ciphers -------------------------------------------------------------------
//
// The setting ciphers is a list in OpenSSL's language (openssl-ciphers(1)), which
// selects from the suites that this server offers for TLS 1.2. All of them have
// forward secrecy and authenticated encryption. The suites of TLS 1.3 are always
// on; OpenSSL's list does not affect them either.

// suite is a cipher suite of TLS 1.2 that this server offers.
type suite struct {
	id    uint16
	name  string // OpenSSL's name
	words string // words of OpenSSL's language that select this suite among others
}

var suites = []suite{
	{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "ECDHE-ECDSA-AES128-GCM-SHA256", "aECDSA ECDSA AES AES128 AESGCM"},
	{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "ECDHE-RSA-AES128-GCM-SHA256", "aRSA AES AES128 AESGCM"},
	{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "ECDHE-ECDSA-AES256-GCM-SHA384", "aECDSA ECDSA AES AES256 AESGCM"},
	{tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "ECDHE-RSA-AES256-GCM-SHA384", "aRSA AES AES256 AESGCM"},
	{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-ECDSA-CHACHA20-POLY1305", "aECDSA ECDSA CHACHA20"},
	{tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-RSA-CHACHA20-POLY1305", "aRSA CHACHA20"},
}

// allSuites are the words that select every suite.
var allSuites = strings.Fields("ALL DEFAULT HIGH TLSv1.2 ECDHE EECDH kECDHE kEECDH ECDH")

// otherWords are words of the language that select only suites not offered here.
var otherWords = strings.Fields(`COMPLEMENTOFALL COMPLEMENTOFDEFAULT MEDIUM LOW EXP EXPORT EXPORT40 EXPORT56
	aNULL eNULL NULL kRSA RSA kECDH DH DHE EDH kDHE kEDH kDH kDHr kDHd ADH AECDH aDH aDSS DSS DES 3DES RC4 RC2 IDEA SEED
	CAMELLIA CAMELLIA128 CAMELLIA256 ARIA ARIA128 ARIA256 ARIAGCM AESCCM AESCCM8 CBC MD5 SHA SHA1 SHA256 SHA384
	SSLv2 SSLv3 TLSv1 TLSv1.0 TLSv1.1 PSK kPSK kECDHEPSK kDHEPSK kRSAPSK aPSK SRP kSRP aSRP KRB5 kKRB5 aKRB5
	aGOST aGOST01 kGOST GOST94 GOST89MAC GOST aECDH kECDHr kECDHe FZA kFZA aFZA eFZA`)

// nameParts are the parts of the names of all suites that OpenSSL has or had.
var nameParts = strings.Fields(`EXP EXP1024 ECDHE ECDH DHE EDH DH ADH AECDH RSA ECDSA DSS PSK SRP KRB5 NULL AES128 AES256
	GCM CCM CCM8 CBC CBC3 RC4 RC2 DES DES3 IDEA SEED CAMELLIA128 CAMELLIA256 ARIA ARIA128 ARIA256 CHACHA20 POLY1305
	MD5 SHA SHA256 SHA384 AES 128 256 3DES EDE`)

// selectSuites returns the suites that a list selects; "" selects all.
func selectSuites(list string) ([]uint16, error) {
	if list == "" {
		list = "ALL"
	}
	chosen, killed := map[uint16]bool{}, map[uint16]bool{}
	for _, item := range strings.FieldsFunc(list, func(r rune) bool { return r == ':' || r == ',' || r == ' ' || r == ';' }) {
		if item == "@STRENGTH" || strings.HasPrefix(item, "@SECLEVEL=") {
			continue // Go orders the suites itself, and no suite here is weak
		}
		op, words := item[0], item[1:]
		if op != '!' && op != '-' && op != '+' {
			op, words = 0, item
		}
		met, err := suitesOf(words)
		if err != nil {
			return nil, err
		}
		for _, s := range met {
			switch {
			case op == '!':
				killed[s.id] = true
			case op == '-':
				delete(chosen, s.id)
			case op == 0:
				chosen[s.id] = true
			}
		}
	}
	var ids []uint16
	for _, s := range suites {
		if chosen[s.id] && !killed[s.id] {
			ids = append(ids, s.id)
		}
	}
	if ids == nil {
		return nil, sentence("ciphers: %q leaves no cipher; those for TLS 1.2 are %s", list, suiteNames())
	}
	return ids, nil
}

func suiteNames() string {
	var names []string
	for _, s := range suites {
		names = append(names, s.name)
	}
	return strings.Join(names, ", ")
}

// suitesOf returns the suites that every one of some words, joined by plus, selects.
func suitesOf(words string) (met []suite, err error) {
	met = slices.Clone(suites)
	for word := range strings.SplitSeq(words, "+") {
		selects := func(s suite) bool {
			return word == s.name || word == tls.CipherSuiteName(s.id) || slices.Contains(allSuites, word) ||
				slices.Contains(strings.Fields(s.words), word)
		}
		if !slices.ContainsFunc(suites, selects) && !slices.Contains(otherWords, word) && !isSuiteName(word) {
			return nil, sentence("ciphers: %q is no word of a list of ciphers", word)
		}
		met = slices.DeleteFunc(met, func(s suite) bool { return !selects(s) })
	}
	return met, nil
}

// isSuiteName reports whether a word looks like the name of a suite.
func isSuiteName(word string) bool {
	if strings.HasPrefix(word, "TLS_") {
		return slices.ContainsFunc(append(tls.CipherSuites(), tls.InsecureCipherSuites()...), func(s *tls.CipherSuite) bool {
			return s.Name == word
		})
	}
	parts := strings.Split(word, "-")
	return len(parts) > 1 && !slices.ContainsFunc(parts, func(part string) bool { return !slices.Contains(nameParts, part) })
}

// cipherName is OpenSSL's name of a suite.
func cipherName(id uint16) string {
	if i := slices.IndexFunc(suites, func(s suite) bool { return s.id == id }); i >= 0 {
		return suites[i].name
	}
	return tls.CipherSuiteName(id) // a suite of TLS 1.3, for which OpenSSL uses the same name
}
