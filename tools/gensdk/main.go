// Command gensdk writes hostnet's SDKs from its schema:
//
//	gensdk SCHEMA OUT OVERLAYS
//
// reads the file SCHEMA and replaces OUT/python, OUT/nodejs and OUT/go. The modules in OVERLAYS/python, written by
// hand, become modules of the Python SDK's package; what they export, it exports. OVERLAYS/go has the go.mod and go.sum
// of the Go SDK, where MODULE stands for the module's path. It calls the generators as libraries because `pulumi package
// gen-sdk` needs a language host for each language, and those come with the official CLI only.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/blang/semver"
	gogen "github.com/pulumi/pulumi/pkg/v3/codegen/go"
	nodegen "github.com/pulumi/pulumi/pkg/v3/codegen/nodejs"
	pygen "github.com/pulumi/pulumi/pkg/v3/codegen/python"
	"github.com/pulumi/pulumi/pkg/v3/codegen/schema"
)

// tool names the generator in the header of each generated file.
const tool = "hostnet's tools/gensdk"

// language is one SDK: its folder and what generates the content.
type language struct {
	name     string
	generate func(*schema.Package) (map[string][]byte, error)
}

// languages lists the SDKs that are written, with what the folder overlays adds to them.
func languages(overlays string) []language {
	return []language{
		{"python", func(p *schema.Package) (map[string][]byte, error) {
			return python(p, filepath.Join(overlays, "python"))
		}},
		{"nodejs", func(p *schema.Package) (map[string][]byte, error) {
			return nodegen.GeneratePackage(tool, p, nil, nil, false, noPackages{})
		}},
		{"go", func(p *schema.Package) (map[string][]byte, error) { return golang(p, filepath.Join(overlays, "go")) }},
	}
}

// python generates the Python SDK with the modules in a folder. Each replaces the generated module of its name, which the
// package imports: a component written in Python needs no plugin to be constructed, and has its children as attributes.
func python(pkg *schema.Package, folder string) (map[string][]byte, error) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.py"))
	if err != nil {
		return nil, err
	}
	files, err := pygen.GeneratePackage(tool, pkg, nil, noPackages{})
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		name := filepath.Join("pulumi_hostnet", filepath.Base(path))
		if _, ok := files[name]; !ok {
			return nil, fmt.Errorf("%s: the SDK has no module of this name", path)
		}
		if files[name], err = os.ReadFile(path); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// golang generates the Go SDK, and makes its package a module.
func golang(pkg *schema.Package, folder string) (map[string][]byte, error) {
	files, err := gogen.GeneratePackage(tool, pkg, nil)
	if err != nil {
		return nil, err
	}
	info, ok := pkg.Language["go"].(gogen.GoPackageInfo)
	if !ok {
		return nil, errors.New("the schema has no block for Go")
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return nil, err
		}
		files["hostnet/"+name] = bytes.Replace(text, []byte("MODULE"), []byte(info.ImportBasePath), 1)
	}
	return files, nil
}

// noPackages is a loader of other packages' schemas for a schema that refers to none. A real one would need plugins.
type noPackages struct{}

func (noPackages) LoadPackage(name string, _ *semver.Version) (*schema.Package, error) {
	return nil, fmt.Errorf("the schema refers to another package, %q", name)
}

func (n noPackages) LoadPackageV2(_ context.Context, d *schema.PackageDescriptor) (*schema.Package, error) {
	return n.LoadPackage(d.Name, d.Version)
}

func (n noPackages) LoadPackageReference(name string, v *semver.Version) (schema.PackageReference, error) {
	_, err := n.LoadPackage(name, v)
	return nil, err
}

func (n noPackages) LoadPackageReferenceV2(
	_ context.Context, d *schema.PackageDescriptor,
) (schema.PackageReference, error) {
	return n.LoadPackageReference(d.Name, d.Version)
}

// readSpec reads the schema as it is written in the file.
func readSpec(path string) (schema.PackageSpec, error) {
	var spec schema.PackageSpec
	text, err := os.ReadFile(path)
	if err != nil {
		return spec, err
	}
	if err := json.Unmarshal(text, &spec); err != nil {
		return spec, fmt.Errorf("%s: %w", path, err)
	}
	return spec, nil
}

// bind checks the schema and resolves its references. Each generator annotates the package it is given, so each
// gets one of its own.
func bind(spec schema.PackageSpec) (*schema.Package, error) {
	pkg, diagnostics, err := schema.BindSpec(spec, noPackages{}, schema.ValidationOptions{})
	if err != nil {
		return nil, err
	}
	if diagnostics.HasErrors() {
		return nil, diagnostics
	}
	return pkg, nil
}

// replace makes folder hold files and nothing else.
func replace(folder string, files map[string][]byte) error {
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	for name, content := range files {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// write generates one SDK into its folder below out.
func write(spec schema.PackageSpec, lang language, out string) error {
	pkg, err := bind(spec)
	if err != nil {
		return err
	}
	files, err := lang.generate(pkg)
	if err != nil {
		return fmt.Errorf("%s: %w", lang.name, err)
	}
	return replace(filepath.Join(out, lang.name), files)
}

// run is the command without the process around it.
func run(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: gensdk SCHEMA OUT OVERLAYS")
	}
	spec, err := readSpec(args[0])
	if err != nil {
		return err
	}
	for _, lang := range languages(args[2]) {
		if err := write(spec, lang, args[1]); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gensdk:", err)
		os.Exit(1)
	}
}
