#include "plugin.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <utility>

namespace vitc {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;

constexpr int32_t kOk = 0;
constexpr int32_t kFailed = -1;

std::mutex logger_lock;
nvinfer1::ILoggerFinder* logger_finder = nullptr;

// TensorRT's own logger where it gave us one, else the process's.
void report(nvinfer1::ILogger::Severity severity, std::string const& text) noexcept {
    std::lock_guard<std::mutex> const guard(logger_lock);
    nvinfer1::ILogger* const logger = logger_finder != nullptr ? logger_finder->findLogger() : getLogger();
    if (logger != nullptr) {
        logger->log(severity, ("vitc::VitAttention: " + text).c_str());
    }
}

void report_error(std::string const& text) noexcept { report(nvinfer1::ILogger::Severity::kERROR, text); }

// Runs `body`, which returns false with a sentence when it refuses; an exception never leaves the plugin.
template <typename Body>
bool guarded(char const* where, Body&& body) noexcept {
    try {
        std::string error;
        if (body(error)) {
            return true;
        }
        report_error(std::string(where) + ": " + error);
    } catch (std::exception const& e) {
        report_error(std::string(where) + ": " + e.what());
    } catch (...) {
        report_error(std::string(where) + ": an unknown exception");
    }
    return false;
}

// ---- fields ----

std::string text_of(double value) {
    std::string text = std::to_string(value);
    return value == std::floor(value) ? text.substr(0, text.find('.')) : text;
}

bool in_range(FieldSpec const& spec, double value, std::string& error) {
    if (!std::isfinite(value)) {
        error = std::string("field '") + spec.name + "' is not finite (" + spec.doc + ")";
        return false;
    }
    if (spec.has_minimum && value < spec.minimum) {
        error = std::string("field '") + spec.name + "' is " + text_of(value) + ", and must be at least " +
                text_of(spec.minimum) + " (" + spec.doc + ")";
        return false;
    }
    if (spec.has_maximum && value > spec.maximum) {
        error = std::string("field '") + spec.name + "' is " + text_of(value) + ", and must be at most " +
                text_of(spec.maximum) + " (" + spec.doc + ")";
        return false;
    }
    return true;
}

bool wrong_type(FieldSpec const& spec, char const* wanted, PluginField const& field, std::string& error) {
    error = std::string("field '") + spec.name + "' has the plugin field type " +
            std::to_string(static_cast<int32_t>(field.type)) + " and the length " + std::to_string(field.length) +
            ", and must be " + wanted;
    return false;
}

bool read_field(FieldSpec const& spec, PluginField const& field, std::string& value, std::string& error) {
    if (field.type != PluginFieldType::kCHAR || field.data == nullptr) {
        return wrong_type(spec, "a string (kCHAR)", field, error);
    }
    char const* const text = static_cast<char const*>(field.data);
    // Some writers count the closing zero, some do not.
    size_t const limit = field.length < 0 ? 0 : static_cast<size_t>(field.length);
    value.assign(text, strnlen(text, limit));
    if (spec.choices != nullptr && std::string("|").append(spec.choices).find("|" + value + "|") == std::string::npos) {
        error = std::string("field '") + spec.name + "' is '" + value + "', and must be one of " + spec.choices;
        return false;
    }
    return true;
}

bool read_field(FieldSpec const& spec, PluginField const& field, int32_t& value, std::string& error) {
    if (field.length != 1 || field.data == nullptr) {
        return wrong_type(spec, "one integer (kINT32 or kINT64)", field, error);
    }
    if (field.type == PluginFieldType::kINT32) {
        value = *static_cast<int32_t const*>(field.data);
    } else if (field.type == PluginFieldType::kINT64) {
        int64_t const wide = *static_cast<int64_t const*>(field.data);
        value = static_cast<int32_t>(wide);
        if (value != wide) {
            error = std::string("field '") + spec.name + "' is " + std::to_string(wide) + ", which is beyond 32 bits";
            return false;
        }
    } else {
        return wrong_type(spec, "one integer (kINT32 or kINT64)", field, error);
    }
    return in_range(spec, value, error);
}

bool read_field(FieldSpec const& spec, PluginField const& field, float& value, std::string& error) {
    if (field.type != PluginFieldType::kFLOAT32 || field.length != 1 || field.data == nullptr) {
        return wrong_type(spec, "one float (kFLOAT32)", field, error);
    }
    value = *static_cast<float const*>(field.data);
    return in_range(spec, value, error);
}

bool read_field(FieldSpec const& spec, PluginField const& field, std::vector<float>& value, std::string& error) {
    if (field.type != PluginFieldType::kFLOAT32 || field.length < 1 || field.data == nullptr) {
        return wrong_type(spec, "floats (kFLOAT32)", field, error);
    }
    float const* const first = static_cast<float const*>(field.data);
    value.assign(first, first + field.length);
    for (float const number : value) {
        if (!in_range(spec, number, error)) {
            return false;
        }
    }
    return true;
}

PluginField field_of(FieldSpec const& spec, std::string const& value) {
    return PluginField(spec.name, value.data(), PluginFieldType::kCHAR, static_cast<int32_t>(value.size()));
}
PluginField field_of(FieldSpec const& spec, int32_t const& value) {
    return PluginField(spec.name, &value, PluginFieldType::kINT32, 1);
}
PluginField field_of(FieldSpec const& spec, float const& value) {
    return PluginField(spec.name, &value, PluginFieldType::kFLOAT32, 1);
}

PluginField field_of(FieldSpec const& spec, std::vector<float> const& value) {
    return PluginField(spec.name, value.data(), PluginFieldType::kFLOAT32, static_cast<int32_t>(value.size()));
}

PluginFieldType type_of(FieldKind kind) {
    switch (kind) {
        case FieldKind::kString: return PluginFieldType::kCHAR;
        case FieldKind::kInt: return PluginFieldType::kINT32;
        case FieldKind::kFloat:
        case FieldKind::kFloats: return PluginFieldType::kFLOAT32;
    }
    return PluginFieldType::kUNKNOWN;
}

// Whether the heads have scales of their own; a lone 1 says that they have not.
bool by_head(AttentionFields const& f) { return f.head_scales.size() != 1 || f.head_scales[0] != 1.0f; }

// As AttentionFields._check_head_scales of fields.py.
bool check_head_scales(AttentionFields const& f, std::string& error) {
    size_t const wanted = 3 * static_cast<size_t>(f.num_heads);
    bool const positive = std::all_of(f.head_scales.begin(), f.head_scales.end(), [](float x) { return x > 0.0f; });
    if (f.q_scale <= 0.0f || f.head_scales.size() != wanted || !positive) {
        error = "field 'head_scales' has " + std::to_string(f.head_scales.size()) + " factors for " +
                std::to_string(f.num_heads) + " heads; it must be one 1, or " + std::to_string(wanted) +
                " factors > 0 of the scales of INT8 inputs";
        return false;
    }
    if (f.num_heads > kMaxScaleHeads) {
        error = "it has " + std::to_string(f.num_heads) + " heads, and at most " + std::to_string(kMaxScaleHeads) +
                " may have scales of their own: write one 1 into 'head_scales'";
        return false;
    }
    return true;
}

// What no single field's limits can say.
bool check_together(AttentionFields const& f, std::string& error) {
    bool const any = f.q_scale > 0.0f || f.k_scale > 0.0f || f.v_scale > 0.0f;
    bool const all = f.q_scale > 0.0f && f.k_scale > 0.0f && f.v_scale > 0.0f;
    if (any != all) {
        error = "q_scale, k_scale and v_scale are " + std::to_string(f.q_scale) + ", " + std::to_string(f.k_scale) +
                " and " + std::to_string(f.v_scale) + ": either all are 0 (floating point) or all are > 0 (INT8)";
        return false;
    }
    if (by_head(f) && !check_head_scales(f, error)) {
        return false;
    }
    if (f.scale < 0.0f) {
        error = "field 'scale' is " + std::to_string(f.scale) + ", and must be at least 0: negate q instead";
        return false;
    }
    if (!has_head_dim(f.head_dim)) {
        error = "this build has no kernel for head_dim " + std::to_string(f.head_dim) +
                ": add it to VITC_HEAD_DIMS and build the plugin again";
        return false;
    }
    return true;
}

Layout layout_of(AttentionFields const& fields) {
    if (fields.layout == "packed") {
        return Layout::kPacked;
    }
    return fields.layout == "bnhd" ? Layout::kBnhd : Layout::kBhnd;
}

int32_t shared_limit() {
    int device = 0;
    int bytes = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess) {
        return 0;
    }
    return bytes;
}

std::string text_of(Dims const& dims) {
    std::string text = "[";
    for (int32_t i = 0; i < dims.nbDims; ++i) {
        text += (i > 0 ? ", " : "") + std::to_string(dims.d[i]);
    }
    return text + "]";
}

bool equal(Dims const& dims, std::vector<int64_t> const& wanted) {
    bool same = dims.nbDims == static_cast<int32_t>(wanted.size());
    for (size_t i = 0; same && i < wanted.size(); ++i) {
        same = dims.d[i] == wanted[i];
    }
    return same;
}

}  // namespace

bool parse_fields(PluginFieldCollection const& collection, AttentionFields& fields, std::string& error) {
    bool ok = true;
    visit(fields, [&](FieldSpec const& spec, auto& member) {
        if (!ok) {
            return;
        }
        for (int32_t i = 0; i < collection.nbFields; ++i) {
            PluginField const& field = collection.fields[i];
            if (field.name != nullptr && std::strcmp(field.name, spec.name) == 0) {
                ok = read_field(spec, field, member, error);
                return;
            }
        }
        ok = false;
        error = std::string("the field '") + spec.name + "' is absent; every field must be written (" + spec.doc + ")";
    });
    return ok && check_together(fields, error);
}

// ---- the plugin ----

VitAttentionPlugin::VitAttentionPlugin(AttentionFields fields) : fields_(std::move(fields)) {}

nvinfer1::IPluginCapability* VitAttentionPlugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
    switch (type) {
        case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
        case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
        case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

nvinfer1::IPluginV3* VitAttentionPlugin::clone() noexcept {
    VitAttentionPlugin* copy = nullptr;
    guarded("clone", [&](std::string&) {
        auto made = std::make_unique<VitAttentionPlugin>(fields_);
        made->kernel_ = kernel_;
        made->params_ = params_;
        copy = made.release();
        return true;
    });
    return copy;
}

char const* VitAttentionPlugin::getPluginName() const noexcept { return kPluginName; }
char const* VitAttentionPlugin::getPluginVersion() const noexcept { return kPluginVersion; }
char const* VitAttentionPlugin::getPluginNamespace() const noexcept { return kPluginNamespace; }

int32_t VitAttentionPlugin::input_count() const {
    for (LayoutSpec const& layout : kLayouts) {
        if (fields_.layout == layout.name) {
            return layout.inputs + fields_.has_bias;
        }
    }
    return 0;
}

int32_t VitAttentionPlugin::getNbOutputs() const noexcept { return 1; }

int32_t VitAttentionPlugin::getOutputDataTypes(DataType* output_types, int32_t output_count, DataType const*,
                                               int32_t inputs) const noexcept {
    bool const ok = guarded("getOutputDataTypes", [&](std::string& error) {
        error = "it has " + std::to_string(inputs) + " inputs and " + std::to_string(output_count) +
                " outputs; its fields say " + std::to_string(input_count()) + " and 1";
        return inputs == input_count() && output_count == 1;
    });
    output_types[0] = int8_out() ? DataType::kINT8 : DataType::kHALF;
    return ok ? kOk : kFailed;
}

int32_t VitAttentionPlugin::getOutputShapes(DimsExprs const* inputs, int32_t inputs_given, DimsExprs const*, int32_t,
                                            DimsExprs* outputs, int32_t, nvinfer1::IExprBuilder& builder) noexcept {
    bool const heads_first = layout_of(fields_) == Layout::kBhnd;
    bool const ok = guarded("getOutputShapes", [&](std::string& error) {
        int32_t const rank = heads_first ? 4 : 3;
        error = "its first input has " + std::to_string(inputs[0].nbDims) + " dimensions; layout '" + fields_.layout +
                "' takes " + std::to_string(rank);
        return inputs_given == input_count() && inputs[0].nbDims == rank;
    });
    if (!ok) {
        return kFailed;
    }
    outputs[0].nbDims = 3;
    outputs[0].d[0] = inputs[0].d[0];
    outputs[0].d[1] = inputs[0].d[heads_first ? 2 : 1];
    outputs[0].d[2] = builder.constant(fields_.num_heads * fields_.head_dim);
    return kOk;
}

bool VitAttentionPlugin::supportsFormatCombination(int32_t position, DynamicPluginTensorDesc const* in_out,
                                                   int32_t inputs, int32_t outputs) noexcept {
    if (inputs != input_count() || outputs != 1) {
        return false;
    }
    PluginTensorDesc const& tensor = in_out[position].desc;
    if (tensor.format != nvinfer1::TensorFormat::kLINEAR) {
        return false;
    }
    if (position == inputs) {
        return tensor.type == (int8_out() ? DataType::kINT8 : DataType::kHALF);
    }
    if (fields_.has_bias == 1 && position == inputs - 1) {
        return tensor.type == DataType::kHALF || tensor.type == DataType::kFLOAT;
    }
    return tensor.type == (int8_in() ? DataType::kINT8 : DataType::kHALF);
}

VariantKey VitAttentionPlugin::variant_key() const {
    bool const int8_pv = int8_in() && fields_.pv == "int8";
    return VariantKey{fields_.head_dim,
                      int8_in() ? Element::kInt8 : Element::kHalf,
                      int8_pv ? Element::kInt8 : Element::kHalf,
                      int8_out() ? Element::kInt8 : Element::kHalf,
                      fields_.has_bias == 1,
                      fields_.tile_q,
                      fields_.tile_k};
}

int32_t VitAttentionPlugin::configurePlugin(DynamicPluginTensorDesc const*, int32_t inputs,
                                            DynamicPluginTensorDesc const*, int32_t) noexcept {
    bool const ok = guarded("configurePlugin", [&](std::string& error) {
        if (inputs != input_count()) {
            error = "it has " + std::to_string(inputs) + " inputs; its fields say " + std::to_string(input_count());
            return false;
        }
        Kernel kernel{};
        return find_kernel(variant_key(), shared_limit(), kernel, error);
    });
    return ok ? kOk : kFailed;
}

bool VitAttentionPlugin::check_shapes(PluginTensorDesc const* inputs, PluginTensorDesc const& output,
                                      std::string& error) const {
    Layout const layout = layout_of(fields_);
    bool const heads_first = layout == Layout::kBhnd;
    int64_t const heads = fields_.num_heads;
    int64_t const dim = fields_.head_dim;
    Dims const& first = inputs[0].dims;
    if (first.nbDims != (heads_first ? 4 : 3)) {
        error = "its first input has the shape " + text_of(first) + "; layout '" + fields_.layout + "' takes " +
                (heads_first ? "4" : "3") + " dimensions";
        return false;
    }
    int64_t const batch = first.d[0];
    int64_t const queries = first.d[heads_first ? 2 : 1];
    Dims const& second = inputs[layout == Layout::kPacked ? 0 : 1].dims;
    int64_t const keys = second.nbDims == first.nbDims ? second.d[heads_first ? 2 : 1] : 0;
    auto const wanted = [&](int64_t tokens) {
        if (heads_first) {
            return std::vector<int64_t>{batch, heads, tokens, dim};
        }
        return std::vector<int64_t>{batch, tokens, (layout == Layout::kPacked ? 3 : 1) * heads * dim};
    };
    bool fits = equal(first, wanted(queries)) && equal(output.dims, {batch, queries, heads * dim});
    for (int32_t i = 1; layout != Layout::kPacked && i < 3; ++i) {
        fits = fits && equal(inputs[i].dims, wanted(keys));
    }
    if (!fits || batch < 1 || queries < 1 || keys < 1) {
        error = "the shapes of its inputs and output do not fit num_heads " + std::to_string(heads) + " and head_dim " +
                std::to_string(dim) + ": the first input is " + text_of(first) + ", the output " + text_of(output.dims);
        return false;
    }
    if (fields_.has_bias == 0) {
        return true;
    }
    Dims const& bias = inputs[input_count() - 1].dims;
    bool const bias_fits = bias.nbDims == 4 && bias.d[0] > 0 && batch % bias.d[0] == 0 &&
                           (bias.d[1] == 1 || bias.d[1] == heads) && bias.d[2] == queries && bias.d[3] == keys;
    if (!bias_fits) {
        error = "its bias has the shape " + text_of(bias) + ", and must be [a divisor of " + std::to_string(batch) +
                ", 1 or " + std::to_string(heads) + ", " + std::to_string(queries) + ", " + std::to_string(keys) + "]";
    }
    return bias_fits;
}

int32_t VitAttentionPlugin::onShapeChange(PluginTensorDesc const* inputs, int32_t inputs_given,
                                          PluginTensorDesc const* outputs, int32_t) noexcept {
    bool const ok = guarded("onShapeChange", [&](std::string& error) {
        if (inputs_given != input_count()) {
            error = "it has " + std::to_string(inputs_given) + " inputs; its fields say " + std::to_string(input_count());
            return false;
        }
        if (!check_shapes(inputs, outputs[0], error) ||
            !find_kernel(variant_key(), shared_limit(), kernel_, error)) {
            return false;
        }
        cudaError_t const status = prepare(kernel_);
        if (status != cudaSuccess) {
            error = std::string("the kernel can't have its shared memory: ") + cudaGetErrorString(status);
            return false;
        }
        Layout const layout = layout_of(fields_);
        int32_t const token_axis = layout == Layout::kBhnd ? 2 : 1;
        AttentionExtent const extent{
            static_cast<int32_t>(inputs[0].dims.d[0]), fields_.num_heads, fields_.head_dim,
            static_cast<int32_t>(inputs[0].dims.d[token_axis]),
            static_cast<int32_t>(inputs[layout == Layout::kPacked ? 0 : 1].dims.d[token_axis])};
        AttentionScales const scales{fields_.scale, fields_.q_scale, fields_.k_scale, fields_.v_scale,
                                     fields_.out_scale, by_head(fields_) ? fields_.head_scales.data() : nullptr};
        params_ = make_params(layout, extent, scales, nullptr, nullptr, nullptr, nullptr, int8_in() ? 1 : 2);
        params_.causal = fields_.causal;
        if (fields_.has_bias == 1) {
            PluginTensorDesc const& bias = inputs[inputs_given - 1];
            params_.bias_windows = static_cast<int32_t>(bias.dims.d[0]);
            params_.bias_heads = static_cast<int32_t>(bias.dims.d[1]);
            params_.bias_is_half = bias.type == DataType::kHALF ? 1 : 0;
        }
        return true;
    });
    return ok ? kOk : kFailed;
}

int32_t VitAttentionPlugin::enqueue(PluginTensorDesc const*, PluginTensorDesc const*, void const* const* inputs,
                                    void* const* outputs, void*, cudaStream_t stream) noexcept {
    AttentionParams params = params_;
    if (layout_of(fields_) == Layout::kPacked) {
        int64_t const width = static_cast<int64_t>(fields_.num_heads) * fields_.head_dim * (int8_in() ? 1 : 2);
        params.q = inputs[0];
        params.k = static_cast<char const*>(inputs[0]) + width;
        params.v = static_cast<char const*>(inputs[0]) + 2 * width;
    } else {
        params.q = inputs[0];
        params.k = inputs[1];
        params.v = inputs[2];
    }
    params.bias = fields_.has_bias == 1 ? inputs[input_count() - 1] : nullptr;
    params.out = outputs[0];
    cudaError_t const status = launch(kernel_, params, stream);
    if (status != cudaSuccess) {
        report_error(std::string("enqueue: the kernel was not launched: ") + cudaGetErrorString(status));
        return kFailed;
    }
    return kOk;
}

nvinfer1::IPluginV3* VitAttentionPlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept { return clone(); }

PluginFieldCollection const* VitAttentionPlugin::getFieldsToSerialize() noexcept {
    guarded("getFieldsToSerialize", [&](std::string&) {
        serialized_.clear();
        visit(fields_, [&](FieldSpec const& spec, auto& member) { serialized_.push_back(field_of(spec, member)); });
        return true;
    });
    collection_ = PluginFieldCollection{static_cast<int32_t>(serialized_.size()), serialized_.data()};
    return &collection_;
}

// ---- the creator ----

VitAttentionCreator::VitAttentionCreator() {
    for (FieldSpec const& spec : kFields) {
        names_.emplace_back(spec.name, nullptr, type_of(spec.kind), 1);
    }
    collection_ = PluginFieldCollection{static_cast<int32_t>(names_.size()), names_.data()};
}

nvinfer1::IPluginV3* VitAttentionCreator::createPlugin(char const* name, PluginFieldCollection const* collection,
                                                       nvinfer1::TensorRTPhase) noexcept {
    nvinfer1::IPluginV3* plugin = nullptr;
    guarded("createPlugin", [&](std::string& error) {
        AttentionFields fields;
        if (collection == nullptr || !parse_fields(*collection, fields, error)) {
            error = std::string("layer '") + (name != nullptr ? name : "") + "': " +
                    (collection == nullptr ? "it has no fields" : error);
            return false;
        }
        plugin = std::make_unique<VitAttentionPlugin>(std::move(fields)).release();
        return true;
    });
    return plugin;
}

PluginFieldCollection const* VitAttentionCreator::getFieldNames() noexcept { return &collection_; }
char const* VitAttentionCreator::getPluginName() const noexcept { return kPluginName; }
char const* VitAttentionCreator::getPluginVersion() const noexcept { return kPluginVersion; }
char const* VitAttentionCreator::getPluginNamespace() const noexcept { return kPluginNamespace; }

namespace {

VitAttentionCreator& the_creator() {
    static VitAttentionCreator creator;
    return creator;
}

#if defined(VITC_REGISTER_AT_LOAD)
// For trtexec --staticPlugins and a plain dlopen. TensorRT's own macro would leave the namespace empty.
bool const registered = getPluginRegistry() != nullptr && getPluginRegistry()->registerCreator(the_creator(), kPluginNamespace);
#endif

}  // namespace
}  // namespace vitc

#if !defined(VITC_REGISTER_AT_LOAD)
// For trtexec --dynamicPlugins and IPluginRegistry::loadLibrary.
extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&vitc::the_creator()};
    count = 1;
    return creators;
}

extern "C" __attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
    std::lock_guard<std::mutex> const guard(vitc::logger_lock);
    vitc::logger_finder = finder;
}
#endif
